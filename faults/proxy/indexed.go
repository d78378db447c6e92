package proxy

// indexed is a heap, for container/heap, of things that know their place in it, so
// that one of them can be moved or removed: what waits for a time, the first in front.
type indexed[T inHeap[T]] []T

type inHeap[T any] interface {
	before(T) bool
	placed() *int // its place, from 1; 0: it is in no heap
}

func (h indexed[T]) Len() int           { return len(h) }
func (h indexed[T]) Less(i, j int) bool { return h[i].before(h[j]) }

func (h indexed[T]) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	*h[i].placed(), *h[j].placed() = i+1, j+1
}

// Push and Pop are container/heap's.
func (h *indexed[T]) Push(x any) {
	*h = append(*h, x.(T))
	*x.(T).placed() = len(*h)
}

func (h *indexed[T]) Pop() any {
	var none T
	last := len(*h) - 1
	x := (*h)[last]
	(*h)[last] = none
	*h = (*h)[:last]
	*x.placed() = 0
	return x
}
