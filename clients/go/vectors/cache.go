package vectors

import (
	"strings"
	"sync"
)

// entryBytes is about what an entry takes beside its id and its values.
const entryBytes = 176

// space is the part of the cache that holds vectors which can be compared. Of a release that is as it should be, there
// is one.
type space struct {
	release   string
	dimension int
}

// cache keeps the vectors that were asked for last, up to a number of bytes, and knows what is being read, so that
// calls which miss a vector at the same time read it once. Vectors that Redis lacks are not kept.
type cache struct {
	limit int

	mutex  sync.Mutex
	size   int
	spaces map[space]map[string]*entry
	// ends of the list: ends.older is what was asked for last, ends.newer what was so the longest time ago.
	ends entry
}

// entry is the vector of an item, read or being read.
type entry struct {
	space
	itemID string
	// vector is nil while it is being read, and where Redis lacks it; err says why it could not be read.
	vector       []float32
	err          error
	reading      *reading // nil when it was read
	newer, older *entry   // nil while it is being read
}

// reading is one turn to Redis, that any number of calls wait for.
type reading struct {
	space
	entries []*entry
	// done is closed when every entry has what Redis has of it, or an error.
	done chan struct{}
}

// waiting is a place of a call's answer that a reading fills.
type waiting struct {
	place   int
	entry   *entry
	reading *reading
}

func newCache(limit int) *cache {
	c := &cache{limit: limit, spaces: map[space]map[string]*entry{}}
	c.ends.newer, c.ends.older = &c.ends, &c.ends
	return c
}

// look fills the places of `found` that are known. What is left waits for readings, of which the caller has to do its
// own; nil when others read everything already.
func (c *cache) look(of space, itemIDs []string, found [][]float32) (own *reading, waits []waiting) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	entries := c.spaces[of]
	for place, id := range itemIDs {
		known := entries[id]
		if known != nil && known.reading == nil {
			found[place] = known.vector
			c.unlink(known)
			c.link(known)
			continue
		}
		if known == nil {
			if own == nil {
				own = &reading{space: of, entries: make([]*entry, 0, len(itemIDs)-place), done: make(chan struct{})}
			}
			if entries == nil {
				entries = make(map[string]*entry, len(itemIDs))
				c.spaces[of] = entries
			}
			// The id may be part of something large, which must not live as long as the entry.
			known = &entry{space: of, itemID: strings.Clone(id), reading: own}
			entries[known.itemID] = known
			own.entries = append(own.entries, known)
		}
		if waits == nil {
			waits = make([]waiting, 0, len(itemIDs)-place)
		}
		waits = append(waits, waiting{place, known, known.reading})
	}
	return own, waits
}

// finish keeps what was read and wakes who waits for it.
func (c *cache) finish(read *reading) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	for _, e := range read.entries {
		e.reading = nil
		if e.vector == nil {
			c.forget(e)
			continue
		}
		c.size += e.bytes()
		c.link(e)
	}
	for c.size > c.limit {
		oldest := c.ends.newer
		c.unlink(oldest)
		c.size -= oldest.bytes()
		c.forget(oldest)
	}
	close(read.done)
}

func (c *cache) forget(e *entry) {
	delete(c.spaces[e.space], e.itemID)
	if len(c.spaces[e.space]) == 0 {
		delete(c.spaces, e.space)
	}
}

func (c *cache) link(e *entry) {
	e.newer, e.older = &c.ends, c.ends.older
	e.older.newer, c.ends.older = e, e
}

func (c *cache) unlink(e *entry) {
	e.newer.older, e.older.newer = e.older, e.newer
}

func (e *entry) bytes() int { return entryBytes + len(e.itemID) + 4*len(e.vector) }
