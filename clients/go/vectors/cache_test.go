package vectors

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// ask does what a call does, with a store that has every item but "gone"; the ids that it had to read.
func ask(c *cache, of space, itemIDs ...string) (found [][]float32, asked []string) {
	found = make([][]float32, len(itemIDs))
	own, waits := c.look(of, itemIDs, found)
	if own != nil {
		for _, e := range own.entries {
			asked = append(asked, e.itemID)
			if e.itemID != "gone" {
				e.vector = make([]float32, of.dimension)
				e.vector[0] = float32(len(e.itemID))
			}
		}
		c.finish(own)
	}
	for _, wait := range waits {
		<-wait.reading.done
		found[wait.place] = wait.entry.vector
	}
	return found, asked
}

func TestCacheForgetsWhatWasAskedForLongestAgo(t *testing.T) {
	one := entryBytes + 1 + 4*8
	c, of := newCache(3*one), space{"r", 8}
	ask(c, of, "a", "b", "c")
	ask(c, of, "a")
	if _, asked := ask(c, of, "d"); len(asked) != 1 { // instead of b
		t.Error(asked)
	}
	if _, asked := ask(c, of, "a", "c", "d"); asked != nil {
		t.Errorf("read again: %v", asked)
	}
	if _, asked := ask(c, of, "b"); len(asked) != 1 {
		t.Error("b is still there")
	}
	if c.size != 3*one {
		t.Errorf("it has %d bytes, want %d", c.size, 3*one)
	}
}

func TestCacheKeepsReleasesAndDimensionsApart(t *testing.T) {
	c := newCache(1 << 20)
	for _, of := range []space{{"r", 8}, {"s", 8}, {"r", 4}} {
		if found, asked := ask(c, of, "a"); len(asked) != 1 || len(found[0]) != of.dimension {
			t.Error(of, found, asked)
		}
		if _, asked := ask(c, of, "a"); asked != nil {
			t.Error(of, asked)
		}
	}
}

func TestCacheKeepsNothingOfWhatIsMissing(t *testing.T) {
	c := newCache(1 << 20)
	for range 2 {
		found, asked := ask(c, space{"r", 8}, "gone", "gone")
		if found[0] != nil || found[1] != nil || len(asked) != 1 {
			t.Error(found, asked)
		}
	}
	if c.size != 0 || len(c.spaces) != 0 {
		t.Error(c.size, c.spaces)
	}
}

func TestCacheOfNoBytesKeepsNothing(t *testing.T) {
	c := newCache(0)
	for range 2 {
		if found, asked := ask(c, space{"r", 8}, "a", "b", "a"); len(asked) != 2 || found[2][0] != 1 {
			t.Error(found, asked)
		}
	}
	if c.size != 0 || len(c.spaces) != 0 {
		t.Error(c.size, c.spaces)
	}
}

func TestCacheCountsItsBytes(t *testing.T) {
	c := newCache(20 * entryBytes)
	for range 5_000 {
		ask(c, space{fmt.Sprint("r", rand.IntN(3)), 8}, fmt.Sprint(rand.IntN(50)), fmt.Sprint(rand.IntN(50)), "gone")
		size, listed, held := 0, 0, 0
		for e := c.ends.older; e != &c.ends; e = e.older {
			size += e.bytes()
			listed++
			if e.older.newer != e {
				t.Fatal("the list is torn")
			}
		}
		for _, entries := range c.spaces {
			held += len(entries)
		}
		if size != c.size || size > c.limit || held != listed {
			t.Fatalf("%d bytes in the list, %d counted; %d entries in the list, %d held", size, c.size, listed, held)
		}
	}
}
