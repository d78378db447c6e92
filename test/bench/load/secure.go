//go:build linux

package main

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

// serveSecure answers like httpServer, at once and over TLS, from a goroutine per
// connection. It takes the command count.
func serveSecure() error {
	certificate, err := selfSigned()
	if err != nil {
		return err
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"http/1.1"}})
	if err != nil {
		return err
	}
	var arrived atomic.Int64
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go answerAll(c, &arrived)
		}
	}()
	fmt.Println(l.Addr())
	for in := bufio.NewReader(os.Stdin); ; {
		line, err := in.ReadString('\n')
		switch line = strings.TrimSpace(line); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case line != "count":
			return fmt.Errorf("command %q: over TLS there is only count", line)
		}
		fmt.Println(arrived.Load())
	}
}

// answerAll answers requests without bodies until the caller hangs up.
func answerAll(c net.Conn, arrived *atomic.Int64) {
	defer c.Close()
	text, buf, has := []byte(answer), make([]byte, 16<<10), 0
	for {
		n, err := c.Read(buf[has:])
		if err != nil {
			return
		}
		has += n
		requests := bytes.Count(buf[:has], endOfHead)
		if requests == 0 {
			continue
		}
		has = copy(buf, buf[bytes.LastIndex(buf[:has], endOfHead)+len(endOfHead):has])
		arrived.Add(int64(requests))
		if _, err := c.Write(bytes.Repeat(text, requests)); err != nil {
			return
		}
	}
}

// selfSigned is what OpenSSL's and Go's servers mostly have: a key on P-256.
func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
