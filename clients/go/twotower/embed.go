package twotower

import (
	"context"
	"time"

	twotowerv1 "github.com/twotower/twotower/clients/go/gen/twotower/v1"
)

// Source says where a vector came from.
type Source = twotowerv1.Source

// Where vectors come from.
const (
	// SourceUnspecified: the caller sent the vector itself, or the entry failed.
	SourceUnspecified = twotowerv1.Source_SOURCE_UNSPECIFIED
	// SourceComputed: by the tower, for this call.
	SourceComputed = twotowerv1.Source_SOURCE_COMPUTED
	// SourceCache: from the cache of user vectors.
	SourceCache = twotowerv1.Source_SOURCE_CACHE
	// SourceStored: with the release, computed when that was built.
	SourceStored = twotowerv1.Source_SOURCE_STORED
)

// CacheMode says what a call does with the cache of user vectors.
type CacheMode = twotowerv1.CacheMode

// What a call does with the cache of user vectors.
const (
	// CacheDefault: as the release's policy says.
	CacheDefault = twotowerv1.CacheMode_CACHE_MODE_UNSPECIFIED
	// CacheBypass: compute, neither read nor write.
	CacheBypass = twotowerv1.CacheMode_CACHE_MODE_BYPASS
	// CacheRefresh: compute and write.
	CacheRefresh = twotowerv1.CacheMode_CACHE_MODE_REFRESH
)

// FeatureUse counts how a user's features met the schema. Watch missing and unknown: a name misspelt by a pipeline
// shows here first.
type FeatureUse = twotowerv1.FeatureUse

// UserEmbedding is the vector of a user.
type UserEmbedding struct {
	Embedding
	// Source is SourceComputed or SourceCache.
	Source Source
	// Age of a vector from the cache; 0 when it was computed now.
	Age time.Duration
	// FeatureUse is nil when the vector came from the cache, and when the call went out together with others: batches
	// of embeddings do not count. WithoutCoalescing has it always.
	FeatureUse *FeatureUse
}

// UserEmbeddings is the vectors of a batch of users.
type UserEmbeddings struct {
	// Embeddings is aligned with the users. They differ in their release only while traffic is split. One that failed
	// has no values.
	Embeddings []UserEmbedding
	// Errors holds the users that failed; the others were served.
	Errors EntryErrors
}

// ItemEmbedding is the vector of an item.
type ItemEmbedding struct {
	Embedding
	// Source is SourceStored for an item of the catalog, SourceComputed for features.
	Source Source
}

// ItemEmbeddings is the vectors of a batch of items, all of one release.
type ItemEmbeddings struct {
	// Vectors is aligned with the items; nil where one is missing or failed.
	Vectors [][]float32
	// Release made the vectors.
	Release string
	// Missing holds the positions of the items that the catalog lacks, ascending.
	Missing []int
	// Errors holds the items that failed.
	Errors EntryErrors
}

// At returns vector i with its release.
func (e *ItemEmbeddings) At(i int) Embedding { return Embedding{e.Vectors[i], e.Release} }

// CallOption changes one call for embeddings.
type CallOption func(*callOptions)

type callOptions struct {
	release   string
	cacheMode CacheMode
}

// AtRelease has the call served by the named release, and no other.
func AtRelease(release string) CallOption { return func(o *callOptions) { o.release = release } }

// UseCache says what the call does with the cache of user vectors.
func UseCache(mode CacheMode) CallOption { return func(o *callOptions) { o.cacheMode = mode } }

func (c *Client) callOptions(opts []CallOption) callOptions {
	var o callOptions
	for _, set := range opts {
		set(&o)
	}
	o.release = c.pinned(o.release)
	return o
}

// GetUserEmbedding computes the vector of an anonymous user from numbers alone. EmbedUser takes everything that there
// is to say about a user.
func (c *Client) GetUserEmbedding(ctx context.Context, features map[string]float64) (*UserEmbedding, error) {
	return c.EmbedUser(ctx, &User{Features: features})
}

// GetItemEmbedding computes the vector of an item from numbers alone. EmbedItem takes texts, too; ItemEmbedding reads
// the stored vector of an id.
func (c *Client) GetItemEmbedding(ctx context.Context, features map[string]float64) (*ItemEmbedding, error) {
	return c.EmbedItem(ctx, &Item{Features: features})
}

// EmbedUser computes the vector of a user, or reads it from the server's cache (RPC GetUserEmbedding). Calls that are
// made at the same time go out together.
func (c *Client) EmbedUser(ctx context.Context, user *User, opts ...CallOption) (*UserEmbedding, error) {
	o := c.callOptions(opts)
	if user == nil {
		return nil, required("user")
	}
	var embedding *UserEmbedding
	err := c.run(ctx, []string{o.release}, func(ctx context.Context, orders *denseOrders) error {
		written, err := appendUser(nil, user, orders.of(o.release).user)
		if err != nil {
			return within(err, "user")
		}
		return c.attempts(ctx, func() (err error) {
			embedding, err = c.embedUser(ctx, written, o)
			return err
		})
	})
	return orNil(embedding, err)
}

// embedUser makes one attempt, alone or together with others.
func (c *Client) embedUser(ctx context.Context, user encoded, o callOptions) (*UserEmbedding, error) {
	if c.users == nil {
		return c.sendUser(ctx, user, o)
	}
	return c.users.of(o).do(ctx, user, 0)
}

// EmbedUsers is EmbedUser for many users in one call, much cheaper for each than a call of its own (RPC
// BatchGetUserEmbeddings). A bad user fails alone. The limits of a call are in ServingInfo.
func (c *Client) EmbedUsers(ctx context.Context, users []*User, opts ...CallOption) (*UserEmbeddings, error) {
	o := c.callOptions(opts)
	var embeddings *UserEmbeddings
	err := c.run(ctx, []string{o.release}, func(ctx context.Context, orders *denseOrders) error {
		order := orders.of(o.release).user
		entries := make([]encoded, len(users))
		for i, user := range users {
			if user == nil {
				return required(entryField("users", i))
			}
			written, err := appendUser(nil, user, order)
			if err != nil {
				return within(err, entryField("users", i))
			}
			entries[i] = written
		}
		return c.attempts(ctx, func() (err error) {
			if embeddings, err = c.sendUsers(ctx, entries, o); err != nil {
				return err
			}
			return c.staleSchema(embeddings.Errors)
		})
	})
	return servedOrNil(embeddings, err)
}

// ItemEmbedding reads the stored vector of an item of the catalog (RPC GetItemEmbedding); ErrItemNotFound when it has
// no such item.
func (c *Client) ItemEmbedding(ctx context.Context, itemID string, opts ...CallOption) (*ItemEmbedding, error) {
	ctx, cancel := c.deadline(ctx, c.timeout)
	defer cancel()
	request := &twotowerv1.GetItemEmbeddingRequest{ItemId: itemID, Release: c.callOptions(opts).release}
	return c.itemEmbedding(ctx, request)
}

// EmbedItem computes the vector of an item from its features; it is not stored (RPC GetItemEmbedding).
func (c *Client) EmbedItem(ctx context.Context, item *Item, opts ...CallOption) (*ItemEmbedding, error) {
	o := c.callOptions(opts)
	if item == nil {
		return nil, required("item")
	}
	var embedding *ItemEmbedding
	err := c.run(ctx, []string{o.release}, func(ctx context.Context, orders *denseOrders) (err error) {
		written, err := appendItem(nil, item, orders.of(o.release).item)
		if err != nil {
			return within(err, "item")
		}
		request := appendMessage(nil, itemRequestItem, written)
		if request, err = appendText(request, itemRequestRelease, o.release, "release"); err != nil {
			return err
		}
		embedding, err = c.itemEmbedding(ctx, encoded(request))
		return err
	})
	return orNil(embedding, err)
}

func (c *Client) itemEmbedding(ctx context.Context, request any) (*ItemEmbedding, error) {
	response := &twotowerv1.GetItemEmbeddingResponse{}
	if err := c.call(ctx, twotowerv1.TwoTowerService_GetItemEmbedding_FullMethodName, request, response); err != nil {
		return nil, err
	}
	return &ItemEmbedding{embeddingOf(response.GetEmbedding()), response.GetSource()}, nil
}

// ItemEmbeddings reads the stored vectors of many items (RPC BatchGetItemEmbeddings). The ids travel as keys.
func (c *Client) ItemEmbeddings(ctx context.Context, itemIDs []string, opts ...CallOption) (*ItemEmbeddings, error) {
	return c.ItemEmbeddingsByKey(ctx, ItemKeys(itemIDs), opts...)
}

// ItemEmbeddingsByKey is ItemEmbeddings for callers that keep the keys of their items; see ItemKey.
func (c *Client) ItemEmbeddingsByKey(ctx context.Context, keys []uint64, opts ...CallOption) (*ItemEmbeddings, error) {
	ctx, cancel := c.deadline(ctx, c.timeout)
	defer cancel()
	request, err := newItemsBatch(appendKeys(nil, itemsRequestKeys, keys), len(keys), c.callOptions(opts).release)
	if err != nil {
		return nil, err
	}
	var embeddings *ItemEmbeddings
	err = c.attempts(ctx, func() (err error) {
		embeddings, err = c.sendItems(ctx, request)
		return err
	})
	return orNil(embeddings, err)
}

// EmbedItems computes the vectors of many items from their features (RPC BatchGetItemEmbeddings). A bad item fails
// alone.
func (c *Client) EmbedItems(ctx context.Context, items []*Item, opts ...CallOption) (*ItemEmbeddings, error) {
	o := c.callOptions(opts)
	var embeddings *ItemEmbeddings
	err := c.run(ctx, []string{o.release}, func(ctx context.Context, orders *denseOrders) error {
		written, err := appendItems(nil, itemsRequestItems, items, orders.of(o.release).item)
		if err != nil {
			return err
		}
		request, err := newItemsBatch(written, len(items), o.release)
		if err != nil {
			return err
		}
		return c.attempts(ctx, func() (err error) {
			if embeddings, err = c.sendItems(ctx, request); err != nil {
				return err
			}
			return c.staleSchema(embeddings.Errors)
		})
	})
	return servedOrNil(embeddings, err)
}
