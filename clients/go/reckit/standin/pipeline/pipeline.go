// Package pipeline chains nodes.
package pipeline

import (
	"context"

	"github.com/rushteam/reckit/core"
)

// Kind is the kind of a node.
type Kind string

// The kinds.
const (
	KindRecall      Kind = "recall"
	KindRank        Kind = "rank"
	KindReRank      Kind = "rerank"
	KindPostProcess Kind = "postprocess"
)

// Node is a step.
type Node interface {
	Name() string
	Kind() Kind
	Process(ctx context.Context, rctx *core.RecommendContext, items []*core.Item) ([]*core.Item, error)
}

// ErrorHook may recover a node that failed.
type ErrorHook interface {
	OnNodeError(ctx context.Context, rctx *core.RecommendContext, node Node, err error) (recovered bool)
}

// Pipeline is the steps.
type Pipeline struct {
	Nodes      []Node
	ErrorHooks []ErrorHook
}

// Run goes on with the items of before where a hook recovers.
func (p *Pipeline) Run(
	ctx context.Context, rctx *core.RecommendContext, items []*core.Item,
) ([]*core.Item, error) {
	for _, node := range p.Nodes {
		next, err := node.Process(ctx, rctx, items)
		if err == nil {
			items = next
			continue
		}
		recovered := false
		for _, hook := range p.ErrorHooks {
			recovered = hook.OnNodeError(ctx, rctx, node, err) || recovered
		}
		if !recovered {
			return nil, err
		}
	}
	return items, nil
}
