// Package recall finds candidates.
package recall

import (
	"context"
	"time"

	"github.com/rushteam/reckit/core"
	"github.com/rushteam/reckit/pipeline"
	"github.com/rushteam/reckit/pkg/utils"
)

// Source finds candidates.
type Source interface {
	Name() string
	Recall(ctx context.Context, rctx *core.RecommendContext) ([]*core.Item, error)
}

// ErrorHandler says what becomes of a source that failed.
type ErrorHandler interface {
	HandleError(source Source, err error, rctx *core.RecommendContext) ([]*core.Item, error)
}

// IgnoreErrorHandler ignores, and tells.
type IgnoreErrorHandler struct {
	OnError func(source Source, err error)
}

// HandleError has no items instead.
func (h *IgnoreErrorHandler) HandleError(source Source, err error, _ *core.RecommendContext) ([]*core.Item, error) {
	if h.OnError != nil {
		h.OnError(source, err)
	}
	return nil, nil
}

// Fanout asks many sources. The real one asks them at the same time.
type Fanout struct {
	Sources      []Source
	Dedup        bool
	Timeout      time.Duration
	ErrorHandler ErrorHandler
}

// Name is the node's.
func (n *Fanout) Name() string { return "recall.fanout" }

// Kind is pipeline.KindRecall.
func (n *Fanout) Kind() pipeline.Kind { return pipeline.KindRecall }

// Process keeps the first of the items of one id, with the labels of all.
func (n *Fanout) Process(
	ctx context.Context, rctx *core.RecommendContext, _ []*core.Item,
) ([]*core.Item, error) {
	seen := map[string]*core.Item{}
	var all []*core.Item
	for _, source := range n.Sources {
		items, err := n.ask(ctx, source, rctx)
		if err != nil {
			return nil, err
		}
		for _, item := range items {
			item.PutLabel("recall_source", utils.Label{Value: source.Name(), Source: "recall"})
			if first := seen[item.ID]; n.Dedup && first != nil {
				for name, label := range item.Labels {
					first.PutLabel(name, label)
				}
				continue
			}
			seen[item.ID] = item
			all = append(all, item)
		}
	}
	return all, nil
}

func (n *Fanout) ask(ctx context.Context, source Source, rctx *core.RecommendContext) ([]*core.Item, error) {
	if n.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, n.Timeout)
		defer cancel()
	}
	items, err := source.Recall(ctx, rctx)
	if err == nil {
		return items, nil
	}
	handler := n.ErrorHandler
	if handler == nil {
		handler = &IgnoreErrorHandler{}
	}
	return handler.HandleError(source, err, rctx)
}

// SortedSetRecall recalls fixed ids.
type SortedSetRecall struct {
	IDs      []string
	NodeName string
}

// Name is NodeName.
func (r *SortedSetRecall) Name() string { return r.NodeName }

// Recall returns the ids, with the label that Fanout puts on them again.
func (r *SortedSetRecall) Recall(context.Context, *core.RecommendContext) ([]*core.Item, error) {
	items := make([]*core.Item, len(r.IDs))
	for i, id := range r.IDs {
		items[i] = core.NewItem(id)
		items[i].PutLabel("recall_source", utils.Label{Value: r.NodeName, Source: "recall"})
	}
	return items, nil
}
