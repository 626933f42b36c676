package reckit

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
	"sync"
)

// vectorKey stands for the content of a vector.
type vectorKey [sha256.Size]byte

// keyOf reads the values as float32, which all vectors of a server are.
func keyOf(vector []float64) vectorKey {
	content := make([]byte, 0, 4*len(vector))
	for _, value := range vector {
		content = binary.LittleEndian.AppendUint32(content, math.Float32bits(float32(value)))
	}
	return sha256.Sum256(content)
}

// memory knows which release made each of the vectors that were given out lately: at least the last `capacity` of them,
// at most twice as many. A vector that two releases made is the later one's.
type memory struct {
	capacity int

	mu         sync.Mutex
	young, old map[vectorKey]string
}

func newMemory(capacity int) *memory {
	return &memory{capacity: capacity, young: map[vectorKey]string{}}
}

func (m *memory) remember(vector []float64, release string) {
	key := keyOf(vector)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.put(key, release)
}

// release that made the vector; "" when it is not known.
func (m *memory) release(vector []float64) string {
	key := keyOf(vector)
	m.mu.Lock()
	defer m.mu.Unlock()
	if release, ok := m.young[key]; ok {
		return release
	}
	release, ok := m.old[key]
	if ok { // one that is in use stays
		m.put(key, release)
	}
	return release
}

func (m *memory) put(key vectorKey, release string) {
	if _, known := m.young[key]; !known && len(m.young) >= m.capacity {
		m.old, m.young = m.young, make(map[vectorKey]string, m.capacity)
	}
	m.young[key] = release
}
