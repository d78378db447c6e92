package loadgen

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"syscall"
)

// DialTLS makes connections for Config.Dial that speak TLS, by a configuration that
// is asked for each time.
func DialTLS(config func() (*tls.Config, error)) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := config()
		if err != nil {
			return nil, err
		}
		d := tls.Dialer{Config: c}
		conn, err := d.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return tlsConn{conn.(*tls.Conn)}, nil
	}
}

// tlsConn shows the socket below, where a client looks whether an idle connection
// was closed: whatever the peer says between two answers is its close_notify.
type tlsConn struct{ *tls.Conn }

func (c tlsConn) SyscallConn() (syscall.RawConn, error) {
	s, ok := c.NetConn().(syscall.Conn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	return s.SyscallConn()
}
