package reckit

import (
	"context"

	"github.com/rushteam/reckit/core"
	"github.com/rushteam/reckit/pipeline"
	"github.com/rushteam/reckit/pkg/utils"

	"github.com/twotower/twotower/clients/go/twotower"
)

// modelName is the label rank_model, and rank_type, of what this package ranks.
const modelName = "two_tower"

// LabelMissing marks a candidate that Rank could not score, because the catalog lacks it.
const LabelMissing = "rank_missing"

// Rank is a pipeline.Node that scores all candidates by their ids in one call, by one release.
//
// Scored candidates come first, best first: Score is in (0, 1], Meta["similarity"] what they are ordered by. Those that
// the catalog lacks follow in the order that they had, with their Score as it was and the label rank_missing. When the
// call fails nothing is changed, so that a pipeline.ErrorHook can go on with the candidates.
//
// What feature.EnrichNode wrote into the candidates about the user (user_*, scene_*) is sent along.
type Rank struct {
	Client *twotower.Client
	// NodeName is the name of the node; "" = "rank.two_tower".
	NodeName string
	// User says what is known about the user; nil = UserOf, and what EnrichNode wrote.
	User func(rctx *core.RecommendContext) *twotower.User
	// Embeddings reads the candidates' vectors of the same release into Meta["embedding"], as the re-rankers
	// DPPDiversityNode and SSDDiversityNode need them. It is a second call.
	Embeddings bool
}

var _ pipeline.Node = (*Rank)(nil)

// Name is what Reckit's hooks see.
func (r *Rank) Name() string {
	if r.NodeName == "" {
		return "rank.two_tower"
	}
	return r.NodeName
}

// Kind is pipeline.KindRank.
func (r *Rank) Kind() pipeline.Kind { return pipeline.KindRank }

// Process makes the call.
func (r *Rank) Process(
	ctx context.Context, rctx *core.RecommendContext, items []*core.Item,
) ([]*core.Item, error) {
	candidates := make([]*core.Item, 0, len(items))
	ids := make([]string, 0, len(items))
	for _, item := range items {
		if item != nil {
			candidates = append(candidates, item)
			ids = append(ids, item.ID)
		}
	}
	if len(candidates) == 0 {
		return items, nil
	}
	scores, err := r.Client.Score(ctx, &twotower.ScoreRequest{User: r.user(rctx, candidates[0]), ItemIDs: ids})
	if err != nil {
		return nil, domainError(core.ModuleService, err)
	}
	if len(scores.Scores) != len(ids) || len(scores.Similarities) != len(ids) {
		return nil, short(core.ModuleService)
	}
	vectors, err := r.vectors(ctx, ids, scores.Release)
	if err != nil {
		return nil, err
	}
	ranked := make([]*core.Item, 0, len(candidates))
	for _, i := range scores.Order() {
		if scores.Scores[i] == 0 {
			break // the rest is missing, by id
		}
		item := candidates[i]
		item.Score = float64(scores.Scores[i])
		setMeta(item, metaSimilarity, float64(scores.Similarities[i]))
		if vectors != nil {
			setEmbedding(item, vectors[i])
		}
		putLabel(item, "rank_model", modelName)
		putLabel(item, "rank_type", modelName)
		putLabel(item, "rank_release", scores.Release)
		ranked = append(ranked, item)
	}
	for i, item := range candidates {
		if scores.Scores[i] == 0 {
			putLabel(item, LabelMissing, modelName)
			ranked = append(ranked, item)
		}
	}
	return ranked, nil
}

func (r *Rank) user(rctx *core.RecommendContext, candidate *core.Item) *twotower.User {
	if r.User != nil {
		return r.User(rctx)
	}
	user := UserOf(rctx)
	addEnriched(user, candidate.Features)
	return user
}

// vectors is nil when nobody wants them.
func (r *Rank) vectors(ctx context.Context, ids []string, release string) ([][]float32, error) {
	if !r.Embeddings {
		return nil, nil
	}
	embeddings, err := r.Client.ItemEmbeddings(ctx, ids, twotower.AtRelease(release))
	if err != nil {
		return nil, domainError(core.ModuleService, err)
	}
	if len(embeddings.Vectors) != len(ids) {
		return nil, short(core.ModuleService)
	}
	return embeddings.Vectors, nil
}

// setEmbedding leaves no vector of another release behind: nil is that of an item deleted since it was scored.
func setEmbedding(item *core.Item, vector []float32) {
	if vector == nil {
		delete(item.Meta, metaEmbedding)
		return
	}
	setMeta(item, metaEmbedding, doubles(vector))
}

func setMeta(item *core.Item, name string, value any) {
	if item.Meta == nil {
		item.Meta = map[string]any{}
	}
	item.Meta[name] = value
}

func putLabel(item *core.Item, name, value string) {
	item.PutLabel(name, utils.Label{Value: value, Source: "rank"})
}
