// Package utils has labels.
package utils

// Label explains an item.
type Label struct {
	Value  string `json:"value"`
	Source string `json:"source"`
}

// LabelMergeStrategy merges labels of one name.
type LabelMergeStrategy interface {
	Merge(existing, incoming Label) Label
}

// MergeLabel joins both.
func MergeLabel(existing Label, incoming Label) Label {
	switch "" {
	case existing.Value:
		return incoming
	case incoming.Value:
		return existing
	}
	return Label{existing.Value + "|" + incoming.Value, existing.Source + "," + incoming.Source}
}
