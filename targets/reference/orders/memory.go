package orders

import "sync"

// memory holds the sagas that are under way where nothing of them is durable: it
// dies with the process, and what they did at stock and payments does not. Its
// methods may be called by any goroutine; orders are copied on the way in and out,
// as a database does.
type memory struct {
	mu    sync.Mutex
	byID  map[string]order
	byKey map[string]string // ids of those that have a key
}

func newMemory() *memory { return &memory{byID: map[string]order{}, byKey: map[string]string{}} }

// add keeps o, unless an order has its key already: that one is returned.
func (m *memory) add(o *order) (existing *order) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if id, ok := m.byKey[o.key]; ok && o.key != "" {
		other := m.byID[id]
		return &other
	}
	m.byID[o.id] = *o
	if o.key != "" {
		m.byKey[o.key] = o.id
	}
	return nil
}

// put remembers how far o has come.
func (m *memory) put(o *order) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.byID[o.id] = *o
}

// forget drops o, which the database has now.
func (m *memory) forget(o *order) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.byID, o.id)
	delete(m.byKey, o.key)
}

func (m *memory) find(id string) *order {
	m.mu.Lock()
	defer m.mu.Unlock()
	if o, ok := m.byID[id]; ok {
		return &o
	}
	return nil
}

func (m *memory) withKey(key string) *order {
	m.mu.Lock()
	id := m.byKey[key]
	m.mu.Unlock()
	return m.find(id)
}
