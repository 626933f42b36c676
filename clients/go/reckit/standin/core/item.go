package core

import "github.com/rushteam/reckit/pkg/utils"

// Item is a candidate.
type Item struct {
	ID                 string
	Score              float64
	Features           map[string]float64
	Meta               map[string]any
	Labels             map[string]utils.Label
	LabelMergeStrategy utils.LabelMergeStrategy
}

// NewItem makes an empty one.
func NewItem(id string) *Item {
	return &Item{
		ID:       id,
		Features: make(map[string]float64),
		Meta:     make(map[string]any),
		Labels:   make(map[string]utils.Label),
	}
}

// PutLabel merges labels of one name.
func (it *Item) PutLabel(key string, lbl utils.Label) {
	if it.Labels == nil {
		it.Labels = make(map[string]utils.Label)
	}
	if old, ok := it.Labels[key]; ok {
		if it.LabelMergeStrategy != nil {
			lbl = it.LabelMergeStrategy.Merge(old, lbl)
		} else {
			lbl = utils.MergeLabel(old, lbl)
		}
	}
	it.Labels[key] = lbl
}
