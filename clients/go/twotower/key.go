package twotower

import "github.com/zeebo/xxh3"

// ItemKey returns the key of an item id: XXH3-64 (seed 0) of its UTF-8 bytes. This client sends long lists of ids as
// keys, 8 bytes each; a caller that keeps its candidates can keep their keys instead, and save hashing them.
func ItemKey(itemID string) uint64 { return xxh3.HashString(itemID) }

// ItemKeys returns the keys of ids, in their order.
func ItemKeys(itemIDs []string) []uint64 {
	keys := make([]uint64, len(itemIDs))
	for i, id := range itemIDs {
		keys[i] = ItemKey(id)
	}
	return keys
}
