package twotower

import (
	"cmp"
	"context"
	"slices"
	"time"

	twotowerv1 "github.com/twotower/twotower/clients/go/gen/twotower/v1"
)

// ScoreRequest says whom to score for, and what. Exactly one of User and Embedding, and exactly one of ItemIDs,
// ItemKeys and Items is set.
type ScoreRequest struct {
	User *User
	// Embedding is a user's vector that an earlier call gave; its release serves this one.
	Embedding *Embedding
	// ItemIDs names candidates of the catalog. They travel as keys, except with RequireAll, whose error names them.
	ItemIDs []string
	// ItemKeys names candidates by key; see ItemKey.
	ItemKeys []uint64
	// Items are candidates by features, computed for this call.
	Items []*Item
	// Release that must serve the call; "" = the client's pin, else routed by the server.
	Release string
	// CacheMode says what to do with the cache of user vectors.
	CacheMode CacheMode
	// RequireAll makes a candidate that the catalog lacks fail the call with ErrItemNotFound.
	RequireAll bool
}

// Scores is the scores of the candidates, aligned with them.
type Scores struct {
	// Scores are in (0, 1]; exactly 0 = missing or failed.
	Scores []float32
	// Similarities order the candidates: scores of very good ones are all 1. Meaningless where the score is 0.
	Similarities []float32
	// ItemIDs of the call, or of the items that it sent; nil when it named keys.
	ItemIDs []string
	// Missing holds the positions of the candidates that the catalog lacks, ascending.
	Missing []int
	// Release that served the call.
	Release string
	// Source of the user's vector; SourceUnspecified when the call sent it.
	Source Source
	// Age of a user's vector from the cache; else 0.
	Age time.Duration
	// FeatureUse is nil when the user's features were not looked at.
	FeatureUse *FeatureUse
	// Errors holds the Items that failed.
	Errors EntryErrors
}

// Order returns the positions of the candidates, best first, as the server orders: similarity falling, ties by item id,
// missing and failed ones last.
func (s *Scores) Order() []int {
	order := make([]int, len(s.Scores))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int {
		if missing := isZero(s.Scores[i]) - isZero(s.Scores[j]); missing != 0 {
			return missing
		}
		if s.Scores[i] != 0 {
			if falling := cmp.Compare(s.Similarities[j], s.Similarities[i]); falling != 0 {
				return falling
			}
		}
		return cmp.Compare(valueAt(s.ItemIDs, i), valueAt(s.ItemIDs, j))
	})
	return order
}

func isZero(score float32) int {
	if score == 0 {
		return 1
	}
	return 0
}

// BatchScores is the answers to a batch of ScoreRequests.
type BatchScores struct {
	// Scores is aligned with the requests; nil where one failed.
	Scores []*Scores
	// Errors holds the requests that failed as a whole; those of single Items are in their Scores.
	Errors EntryErrors
}

// Score scores candidates for one user. Calls that are made at the same time go out together.
func (c *Client) Score(ctx context.Context, request *ScoreRequest) (*Scores, error) {
	if request == nil {
		return nil, required("request")
	}
	var scores *Scores
	err := c.run(ctx, []string{c.releaseOf(request)}, func(ctx context.Context, orders *denseOrders) error {
		written, err := c.appendScoreRequest(nil, request, orders)
		if err != nil {
			return err
		}
		return c.attempts(ctx, func() error {
			if scores, err = c.score(ctx, written, request.candidates()); err != nil {
				return err
			}
			return c.staleSchema(scores.Errors)
		})
	})
	if scores != nil {
		scores.ItemIDs = request.ids()
	}
	return servedOrNil(scores, err)
}

// score makes one attempt, alone or together with others.
func (c *Client) score(ctx context.Context, request encoded, candidates int) (*Scores, error) {
	if c.scores == nil {
		return c.sendScore(ctx, request)
	}
	return c.scores.do(ctx, request, candidates)
}

// BatchScore is Score for many requests in one call. A bad request fails alone.
func (c *Client) BatchScore(ctx context.Context, requests []*ScoreRequest) (*BatchScores, error) {
	releases := make([]string, len(requests))
	for i, request := range requests {
		if request == nil {
			return nil, required(entryField("requests", i))
		}
		releases[i] = c.releaseOf(request)
	}
	var batch *BatchScores
	err := c.run(ctx, releases, func(ctx context.Context, orders *denseOrders) error {
		entries := make([]encoded, len(requests))
		for i, request := range requests {
			written, err := c.appendScoreRequest(nil, request, orders)
			if err != nil {
				return within(err, entryField("requests", i))
			}
			entries[i] = written
		}
		return c.attempts(ctx, func() (err error) {
			if batch, err = c.batchScore(ctx, entries); err != nil {
				return err
			}
			for _, scores := range batch.Scores {
				if scores != nil && err == nil {
					err = c.staleSchema(scores.Errors)
				}
			}
			return cmp.Or(err, c.staleSchema(batch.Errors))
		})
	})
	if batch != nil {
		for i, scores := range batch.Scores {
			if scores != nil {
				scores.ItemIDs = requests[i].ids()
			}
		}
	}
	return servedOrNil(batch, err)
}

// sendScore makes one Score.
func (c *core) sendScore(ctx context.Context, request encoded) (*Scores, error) {
	response := &twotowerv1.ScoreResponse{}
	if err := c.once(ctx, twotowerv1.TwoTowerService_Score_FullMethodName, request, response); err != nil {
		return nil, err
	}
	return scoresOf(response), nil
}

// sendScores makes one BatchScore of calls that came together.
func (c *core) sendScores(ctx context.Context, requests []encoded) ([]answer[*Scores], error) {
	batch, err := c.batchScore(ctx, requests)
	if err != nil {
		return nil, err
	}
	answers := make([]answer[*Scores], len(requests))
	for i := range answers {
		if err := batch.Errors[i]; err != nil {
			answers[i].err = err.asCall(entryField("requests", i), "")
			continue
		}
		answers[i].value = batch.Scores[i]
	}
	return answers, nil
}

func (c *core) batchScore(ctx context.Context, requests []encoded) (*BatchScores, error) {
	size := 0
	for _, request := range requests {
		size += len(request) + 6
	}
	written := make([]byte, 0, size)
	for _, request := range requests {
		written = appendMessage(written, batchScoreRequests, request)
	}
	response := &twotowerv1.BatchScoreResponse{}
	method := twotowerv1.TwoTowerService_BatchScore_FullMethodName
	if err := c.once(ctx, method, encoded(written), response); err != nil {
		return nil, err
	}
	if len(response.GetResponses()) != len(requests) {
		return nil, unreadable("the answer has not one response for each request")
	}
	batch := &BatchScores{make([]*Scores, len(requests)), entryErrors(response.GetProblems())}
	for i, one := range response.GetResponses() {
		if batch.Errors[i] == nil {
			batch.Scores[i] = scoresOf(one)
		}
	}
	return batch, nil
}

func scoresOf(response *twotowerv1.ScoreResponse) *Scores {
	return &Scores{
		Scores:       response.GetScores(),
		Similarities: response.GetSimilarities(),
		Missing:      positions(response.GetMissingIndices()),
		Release:      response.GetRelease(),
		Source:       response.GetSource(),
		Age:          milliseconds(response.GetAgeMs()),
		FeatureUse:   response.GetFeatureUse(),
		Errors:       entryErrors(response.GetProblems()),
	}
}

// releaseOf is where the request goes as far as the caller says; "" = the server decides.
func (c *Client) releaseOf(request *ScoreRequest) string {
	return routed(c.pinned(request.Release), request.Embedding)
}

func (r *ScoreRequest) candidates() int { return len(r.ItemIDs) + len(r.ItemKeys) + len(r.Items) }

func (r *ScoreRequest) ids() []string {
	if len(r.Items) == 0 {
		return r.ItemIDs
	}
	ids := make([]string, len(r.Items))
	for i, item := range r.Items {
		ids[i] = item.ID
	}
	return ids
}

// Numbers of the fields of ScoreRequest and BatchScoreRequest.
const (
	scoreUser, scoreEmbedding, scoreItemIDs, scoreItemKeys, scoreItems = 1, 2, 3, 4, 5
	scoreRelease, scoreCacheMode, scoreRequireAll                      = 6, 7, 8

	batchScoreRequests = 1
)

func (c *Client) appendScoreRequest(b []byte, request *ScoreRequest, orders *denseOrders) (encoded, error) {
	towers := orders.of(c.releaseOf(request))
	if request.User != nil {
		user, err := appendUser(nil, request.User, towers.user)
		if err != nil {
			return nil, within(err, "user")
		}
		b = appendMessage(b, scoreUser, user)
	}
	if request.Embedding != nil {
		embedding, err := appendEmbedding(nil, request.Embedding)
		if err != nil {
			return nil, within(err, "embedding")
		}
		b = appendMessage(b, scoreEmbedding, embedding)
	}
	var err error
	if request.RequireAll || len(request.ItemKeys) > 0 { // ids beside keys are for the server to refuse
		if b, err = appendTexts(b, scoreItemIDs, request.ItemIDs, "item_ids"); err != nil {
			return nil, err
		}
	} else {
		b = appendItemKeys(b, scoreItemKeys, request.ItemIDs)
	}
	b = appendKeys(b, scoreItemKeys, request.ItemKeys)
	if b, err = appendItems(b, scoreItems, request.Items, towers.item); err != nil {
		return nil, err
	}
	if b, err = appendText(b, scoreRelease, c.pinned(request.Release), "release"); err != nil {
		return nil, err
	}
	b = appendNumber(b, scoreCacheMode, uint64(request.CacheMode))
	return appendFlag(b, scoreRequireAll, request.RequireAll), nil
}
