package loadgen

import (
	"cmp"
	"slices"
)

// h2live is the streams of a connection that are not over, by their ids. As ids come
// in turn, a stream has the place of a ring that its id falls on; where one that
// takes longer than those around it still has that place, it is in a map.
//
//	id    … 9 11 13 15 17 19 21 …
//	ring       [·  ·  ·  ·]
type h2live struct {
	n    int
	ring []*h2stream // as many as a power of two, or none yet
	rest map[uint32]*h2stream
}

// h2Ring is how many places a ring has at the least; at most it has room for all the
// streams that a stream of load may have on one connection.
const h2Ring = 16

func (l *h2live) at(id uint32) *(*h2stream) { return &l.ring[int(id>>1)&(len(l.ring)-1)] }

// get is the stream with an id; nil where it is over.
func (l *h2live) get(id uint32) *h2stream {
	if l.n == 0 {
		return nil
	}
	if st := *l.at(id); st != nil && st.id == id {
		return st
	}
	return l.rest[id]
}

func (l *h2live) add(st *h2stream) {
	if 2*l.n >= len(l.ring) && len(l.ring) < 2*mostStreams {
		all := l.all()
		*l = h2live{ring: make([]*h2stream, max(h2Ring, 2*len(l.ring)))}
		for _, st := range all {
			l.put(st)
		}
	}
	l.put(st)
}

func (l *h2live) put(st *h2stream) {
	l.n++
	if at := l.at(st.id); *at == nil {
		*at = st
		return
	}
	if l.rest == nil {
		l.rest = map[uint32]*h2stream{}
	}
	l.rest[st.id] = st
}

// remove takes out a stream that is in it.
func (l *h2live) remove(st *h2stream) {
	l.n--
	if at := l.at(st.id); *at == st {
		*at = nil
		return
	}
	delete(l.rest, st.id)
}

// all are the streams in the order of their ids, as they are now.
func (l *h2live) all() []*h2stream {
	var all []*h2stream
	for _, st := range l.ring {
		if st != nil {
			all = append(all, st)
		}
	}
	for _, st := range l.rest {
		all = append(all, st)
	}
	slices.SortFunc(all, func(a, b *h2stream) int { return cmp.Compare(a.id, b.id) })
	return all
}
