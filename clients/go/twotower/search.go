package twotower

import (
	"context"
	"math"
	"time"

	"google.golang.org/protobuf/proto"

	twotowerv1 "github.com/twotower/twotower/clients/go/gen/twotower/v1"
)

// RecommendRequest says whom to recommend to, and which items. Exactly one of User and Embedding is set.
type RecommendRequest struct {
	User *User
	// Embedding is a user's vector that an earlier call gave; its release serves this one.
	Embedding *Embedding
	Selection
	// CacheMode says what to do with the cache of user vectors.
	CacheMode CacheMode
}

// SearchRequest says what to find the neighbours of, and which. Exactly one of ItemID, Embedding and Item is set.
type SearchRequest struct {
	// ItemID names an item of the catalog, which does not find itself.
	ItemID string
	// Embedding is a vector of an item or a user; its release serves the call.
	Embedding *Embedding
	// Item is an item by features; an item of its id is not found.
	Item *Item
	Selection
}

// Selection is which items a search returns, and what of them.
type Selection struct {
	// K is how many; 0 = 100. Fewer come only where fewer are eligible.
	K int
	// Filter says which items are eligible; nil = all. See Where and AllOf.
	Filter *twotowerv1.Filter
	// ExcludeItemIDs are not returned, and do not lessen K. They travel as keys.
	ExcludeItemIDs []string
	// ExcludeItemKeys are not returned either; see ItemKey.
	ExcludeItemKeys []uint64
	// ReturnAttributes names the attributes to return with each item.
	ReturnAttributes []string
	// IncludeEmbeddings returns the vectors of the items, and of the user.
	IncludeEmbeddings bool
	// Release that must serve the call; "" = the client's pin, else routed by the server.
	Release string
}

// ScoredItem is an item that a search found.
type ScoredItem struct {
	ItemID string
	// Score is in (0, 1].
	Score float32
	// Similarity falls from item to item.
	Similarity float32
	// Embedding is the item's vector, where embeddings were asked for.
	Embedding *Embedding
	// Attributes are those asked for that the item has: a string, float64, bool or []string each.
	Attributes map[string]any
}

// Recommendations is the best items for a user: similarity falling, ties by item id.
type Recommendations struct {
	Items []ScoredItem
	// Release that served the call.
	Release string
	// Source of the user's vector; SourceUnspecified when the call sent it.
	Source Source
	// Age of a user's vector from the cache; else 0.
	Age time.Duration
	// UserEmbedding is set where embeddings were asked for.
	UserEmbedding *Embedding
	// FeatureUse is nil when the user's features were not looked at.
	FeatureUse *FeatureUse
}

// SearchResults is the items nearest to an item or a vector: similarity falling, ties by item id.
type SearchResults struct {
	Items []ScoredItem
	// Release that served the call.
	Release string
}

// ItemIDs returns the ids, best first.
func (r *Recommendations) ItemIDs() []string { return itemIDs(r.Items) }

// ItemIDs returns the ids, nearest first.
func (r *SearchResults) ItemIDs() []string { return itemIDs(r.Items) }

// Recommend finds the items of the catalog that score best for a user.
func (c *Client) Recommend(ctx context.Context, request *RecommendRequest) (*Recommendations, error) {
	if request == nil {
		return nil, required("request")
	}
	release := c.pinned(request.Release)
	message := &twotowerv1.RecommendRequest{
		K:                 count(request.K),
		Filter:            request.Filter,
		ExcludeItemKeys:   request.excluded(),
		Release:           release,
		CacheMode:         request.CacheMode,
		IncludeEmbeddings: request.IncludeEmbeddings,
		ReturnAttributes:  request.ReturnAttributes,
	}
	if request.Embedding != nil {
		message.Embedding = request.Embedding.message()
	}
	response := &twotowerv1.RecommendResponse{}
	method := twotowerv1.TwoTowerService_Recommend_FullMethodName
	err := c.run(ctx, []string{routed(release, request.Embedding)}, func(ctx context.Context, orders *denseOrders) error {
		written, err := marshal(message)
		if err != nil {
			return err
		}
		if request.User != nil {
			user, err := appendUser(nil, request.User, orders.of(release).user)
			if err != nil {
				return within(err, "user")
			}
			written = appendMessage(written, recommendUser, user)
		}
		return c.call(ctx, method, encoded(written), response)
	})
	if err != nil {
		return nil, err
	}
	return &Recommendations{
		Items:         scoredItems(response.GetItems()),
		Release:       response.GetRelease(),
		Source:        response.GetSource(),
		Age:           milliseconds(response.GetAgeMs()),
		UserEmbedding: embeddingOrNil(response.GetUserEmbedding()),
		FeatureUse:    response.GetFeatureUse(),
	}, nil
}

// SearchItems finds the items of the catalog that are most similar to an item or to a vector.
func (c *Client) SearchItems(ctx context.Context, request *SearchRequest) (*SearchResults, error) {
	if request == nil {
		return nil, required("request")
	}
	release := c.pinned(request.Release)
	message := &twotowerv1.SearchItemsRequest{
		ItemId:            request.ItemID,
		K:                 count(request.K),
		Filter:            request.Filter,
		ExcludeItemKeys:   request.excluded(),
		Release:           release,
		IncludeEmbeddings: request.IncludeEmbeddings,
		ReturnAttributes:  request.ReturnAttributes,
	}
	if request.Embedding != nil {
		message.Embedding = request.Embedding.message()
	}
	response := &twotowerv1.SearchItemsResponse{}
	method := twotowerv1.TwoTowerService_SearchItems_FullMethodName
	err := c.run(ctx, []string{routed(release, request.Embedding)}, func(ctx context.Context, orders *denseOrders) error {
		written, err := marshal(message)
		if err != nil {
			return err
		}
		if request.Item != nil {
			item, err := appendItem(nil, request.Item, orders.of(release).item)
			if err != nil {
				return within(err, "item")
			}
			written = appendMessage(written, searchItem, item)
		}
		return c.call(ctx, method, encoded(written), response)
	})
	if err != nil {
		return nil, err
	}
	return &SearchResults{scoredItems(response.GetItems()), response.GetRelease()}, nil
}

// Numbers of the fields that are written by hand.
const (
	recommendUser = 1
	searchItem    = 3
)

func (s *Selection) excluded() []uint64 {
	if len(s.ExcludeItemIDs) == 0 {
		return s.ExcludeItemKeys
	}
	return append(ItemKeys(s.ExcludeItemIDs), s.ExcludeItemKeys...)
}

// count is a number on the wire; one that makes no sense stays too large for the server to accept.
func count(k int) uint32 {
	if k < 0 || k > math.MaxUint32 {
		return math.MaxUint32
	}
	return uint32(k)
}

// routed is where a call goes as far as its caller says; "" = the server decides.
func routed(release string, embedding *Embedding) string {
	if release == "" && embedding != nil {
		return embedding.Release
	}
	return release
}

func marshal(message proto.Message) ([]byte, error) {
	written, err := proto.Marshal(message)
	if err != nil { // the only thing that can be wrong with a message that was just made
		return nil, notText("")
	}
	return written, nil
}

func (e *Embedding) message() *twotowerv1.Embedding {
	return &twotowerv1.Embedding{Values: e.Values, Release: e.Release}
}

func embeddingOrNil(message *twotowerv1.Embedding) *Embedding {
	if message == nil {
		return nil
	}
	embedding := embeddingOf(message)
	return &embedding
}

func scoredItems(messages []*twotowerv1.ScoredItem) []ScoredItem {
	items := make([]ScoredItem, len(messages))
	for i, message := range messages {
		items[i] = ScoredItem{
			ItemID:     message.GetItemId(),
			Score:      message.GetScore(),
			Similarity: message.GetSimilarity(),
			Embedding:  embeddingOrNil(message.GetEmbedding()),
			Attributes: attributesOf(message.GetAttributes()),
		}
	}
	return items
}

func itemIDs(items []ScoredItem) []string {
	ids := make([]string, len(items))
	for i := range items {
		ids[i] = items[i].ItemID
	}
	return ids
}
