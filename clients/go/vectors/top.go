package vectors

import "github.com/twotower/twotower/clients/go/twotower"

// Top returns the k best items, as RPC Recommend orders them: similarity falling, ties by item id. k: 0 = 100. Missing
// items are never among them, so fewer may come.
func Top(scores *twotower.Scores, k int) []twotower.ScoredItem {
	if k <= 0 {
		k = 100
	}
	order := scores.Order()
	order = order[:min(k, len(order)-len(scores.Missing))]
	items := make([]twotower.ScoredItem, len(order))
	for place, i := range order {
		items[place] = twotower.ScoredItem{
			ItemID:     scores.ItemIDs[i],
			Score:      scores.Scores[i],
			Similarity: scores.Similarities[i],
		}
	}
	return items
}
