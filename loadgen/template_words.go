package loadgen

import (
	"encoding/json"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// What templates make up. The lists are short on purpose: a load wants values
// that look right and are spread out, not a census.
var (
	firstNames = strings.Fields(`Ada Alan Amara Anouk Aziz Beatriz Björn Carmen Chen Chloe Dalia Daniel Edsger Elena Emeka Fatima
		Finn Grace Gustav Hana Hugo Ibrahim Ines Ivan Jamal Joan Jonas Kai Karima Keiko Lars Leila Lena Linus Luca Malik Mara Margaret
		Mateo Mei Mina Mohamed Naomi Nikolai Noor Olga Omar Oscar Paolo Petra Priya Radia Rahul Rosa Samir Sara Sven Tariq Tomás Uma
		Vera Viktor Yara Zoe`)
	lastNames = strings.Fields(`Abebe Ahmed Almeida Andersson Baker Bauer Bernard Castillo Chen Cohen Costa Diallo Dijkstra Dubois
		Eriksen Fernández Fischer Garcia Gruber Haddad Hansen Hopper Horvat Ivanova Jansen Jensen Johnson Kaya Khan Kim Kowalski
		Kumar Lamarr Larsen Lindqvist Lopez Lovelace Martin Mbeki Mendes Meyer Moreau Müller Nakamura Nguyen Nilsson Novak Okafor
		Olsen Patel Pereira Petrov Popescu Rossi Sato Schmidt Silva Singh Smith Suzuki Tanaka Turing Weber Yilmaz`)
	wordList = strings.Fields(`able account after again amber animal answer apple autumn balance basket before better between bicycle
		bridge bright butter button camera candle canvas carbon castle center chance circle clever cloud coffee copper corner cotton
		country cousin cradle crystal daily danger decide delta desert dinner doctor dragon drawer early earth eleven engine entire
		evening family feather figure finger flower forest fortune future garden gentle giant ginger glass golden gravel green guitar
		hammer harbor harvest hollow honest island jacket journey jungle kettle kitchen ladder lantern lemon letter little machine
		magnet maple marble market meadow mirror modern morning mountain narrow nature needle notion number ocean office olive orange
		orchard oxygen paper parade pebble pencil pepper planet pocket prairie promise purple quarter quiet rabbit record ribbon river`)
)

func (d *draw) of(list []string) string { return list[d.below(uint64(len(list)))] }

func (d *draw) name(dst []byte) []byte {
	dst = append(append(dst, d.of(firstNames)...), ' ')
	return append(dst, d.of(lastNames)...)
}

func (d *draw) email(dst []byte) []byte {
	dst = append(append(dst, d.of(wordList)...), '.')
	dst = append(append(dst, d.of(wordList)...), '.')
	return append(strconv.AppendUint(dst, d.below(10_000), 10), "@example.com"...)
}

func (d *draw) word(dst []byte) []byte { return append(dst, d.of(wordList)...) }

func (d *draw) words(dst []byte, n int) []byte {
	for i := range n {
		if i > 0 {
			dst = append(dst, ' ')
		}
		dst = d.word(dst)
	}
	return dst
}

func (d *draw) letters(dst []byte, n int) []byte {
	for range n {
		dst = append(dst, 'a'+byte(d.below(26)))
	}
	return dst
}

func (d *draw) now(dst []byte) []byte {
	return time.Unix(0, d.due).UTC().AppendFormat(dst, "2006-01-02T15:04:05.000Z")
}

func (d *draw) unix(dst []byte) []byte {
	return strconv.AppendInt(dst, d.due/int64(time.Second), 10)
}

func (d *draw) unixms(dst []byte) []byte {
	return strconv.AppendInt(dst, d.due/int64(time.Millisecond), 10)
}

func appendJSON(dst []byte, s string) []byte {
	quoted, _ := json.Marshal(s) // text always can be
	return append(dst, quoted...)
}

// escape is good for a query and for one segment of a path: a space is %20.
func escape(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }
