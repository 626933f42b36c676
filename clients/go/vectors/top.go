package vectors

import (
	"cmp"
	"slices"

	"github.com/twotower/twotower/clients/go/twotower"
)

// Top returns the k best items, as RPC Recommend orders them: similarity falling, ties by item id. k: 0 = 100. Missing
// items are never among them, so fewer may come.
func Top(scores *twotower.Scores, k int) []twotower.ScoredItem {
	if k <= 0 {
		k = 100
	}
	falling := func(i, j int) int {
		if order := cmp.Compare(scores.Similarities[j], scores.Similarities[i]); order != 0 {
			return order
		}
		return cmp.Compare(scores.ItemIDs[i], scores.ItemIDs[j])
	}
	// Kept in order all the while: most candidates are worse than the last of the best, and cost one comparison.
	best := make([]int, 0, min(k, len(scores.Scores))+1)
	for i, score := range scores.Scores {
		if score == 0 || len(best) == k && falling(i, best[k-1]) >= 0 {
			continue
		}
		place, _ := slices.BinarySearchFunc(best, i, falling)
		best = slices.Insert(best, place, i)
		best = best[:min(k, len(best))]
	}
	items := make([]twotower.ScoredItem, len(best))
	for place, i := range best {
		items[place] = twotower.ScoredItem{
			ItemID:     scores.ItemIDs[i],
			Score:      scores.Scores[i],
			Similarity: scores.Similarities[i],
		}
	}
	return items
}
