package twotower

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"sync/atomic"

	twotowerv1 "github.com/twotower/twotower/clients/go/gen/twotower/v1"
)

// denseOrder says where a tower's numeric features stand in dense_features.
type denseOrder struct {
	fingerprint uint64
	size        int
	// places has the spellings that the server reads: user_age, age and the doubled user_user_age.
	places map[string]densePlace
}

// densePlace: of several spellings that are sent for one feature the lowest rank wins.
type densePlace struct {
	index int
	rank  int8
}

func newDenseOrder(schema *twotowerv1.TowerSchema, prefix string) *denseOrder {
	names := schema.GetDenseOrder()
	order := &denseOrder{schema.GetFingerprint(), len(names), make(map[string]densePlace, 3*len(names))}
	for rank := range int8(3) {
		for index, name := range names {
			spelling := name
			if rank > 0 {
				short, ok := strings.CutPrefix(name, prefix)
				if !ok {
					continue
				}
				spelling = [...]string{1: short, 2: prefix + name}[rank]
			}
			if _, taken := order.places[spelling]; !taken { // an exact name wins over another one's short form
				order.places[spelling] = densePlace{index, rank}
			}
		}
	}
	return order
}

// split returns the dense form of features, and those that have no place in it. Without one known name it returns them
// as they are: a vector of NaN would hide from the server that they are all wrong.
func (o *denseOrder) split(features map[string]float64) (dense []float32, named map[string]float64) {
	var ranks []int8
	for name, value := range features {
		place, ok := o.places[name]
		if !ok {
			if named == nil {
				named = make(map[string]float64)
			}
			named[name] = value
			continue
		}
		if dense == nil {
			dense, ranks = make([]float32, o.size), make([]int8, o.size)
			for i := range dense {
				dense[i], ranks[i] = float32(math.NaN()), math.MaxInt8
			}
		}
		if place.rank < ranks[place.index] {
			dense[place.index], ranks[place.index] = float32(value), place.rank
		}
	}
	if dense == nil {
		return nil, features
	}
	return dense, named
}

// denseOrders has the orders of all loaded releases at one moment. Immutable. nil = features are sent by name.
type denseOrders struct {
	// releases: "" stands for what is not pinned, with a nil order where a split may send it to different schemas.
	releases map[string]towerOrders
}

type towerOrders struct {
	user, item *denseOrder
}

func newDenseOrders(info *twotowerv1.GetServingInfoResponse) *denseOrders {
	releases := make(map[string]towerOrders, len(info.GetReleases())+1)
	var unpinned towerOrders
	first := true
	for _, one := range info.GetReleases() {
		orders := towerOrders{newDenseOrder(one.GetUserSchema(), "user_"), newDenseOrder(one.GetItemSchema(), "item_")}
		releases[one.GetRelease()] = orders
		if !one.GetActive() && one.GetTrafficShare() == 0 {
			continue
		}
		if first {
			unpinned, first = orders, false
			continue
		}
		unpinned.user = common(unpinned.user, orders.user)
		unpinned.item = common(unpinned.item, orders.item)
	}
	releases[""] = unpinned
	return &denseOrders{releases}
}

func common(one, other *denseOrder) *denseOrder {
	if one == nil || one.fingerprint != other.fingerprint {
		return nil
	}
	return one
}

// of returns the orders of a release. Of one that is not loaded there are none: by name, the server says so itself.
func (o *denseOrders) of(release string) towerOrders {
	if o == nil {
		return towerOrders{}
	}
	return o.releases[release]
}

func (o *denseOrders) cover(releases []string) bool {
	return o != nil && !slices.ContainsFunc(releases, func(release string) bool {
		_, ok := o.releases[release]
		return !ok
	})
}

// schemas fetches the orders when they are needed, for all callers at once.
type schemas struct {
	fetch   func(ctx context.Context) (*twotowerv1.GetServingInfoResponse, error)
	current atomic.Pointer[denseOrders]
	// turn holds a token while nobody fetches.
	turn chan struct{}
}

func newSchemas(fetch func(context.Context) (*twotowerv1.GetServingInfoResponse, error)) *schemas {
	s := &schemas{fetch: fetch, turn: make(chan struct{}, 1)}
	s.turn <- struct{}{}
	return s
}

// newer returns orders that are not `old`, which somebody else may have fetched already.
func (s *schemas) newer(ctx context.Context, old *denseOrders) (*denseOrders, error) {
	select {
	case <-s.turn:
	case <-ctx.Done():
		return nil, contextError(ctx)
	}
	defer func() { s.turn <- struct{}{} }()
	if current := s.current.Load(); current != old {
		return current, nil
	}
	info, err := s.fetch(ctx)
	if err != nil {
		return nil, err
	}
	orders := newDenseOrders(info)
	s.current.Store(orders)
	return orders, nil
}

// run calls `send` with the orders, and once more with newer ones when a schema has changed (CONTRACT rule 4).
func (s *schemas) run(ctx context.Context, releases []string, send func(*denseOrders) error) error {
	orders := s.current.Load()
	var err error
	if !orders.cover(releases) {
		if orders, err = s.newer(ctx, orders); err != nil {
			return err
		}
	}
	if err = send(orders); !errors.Is(err, ErrSchemaMismatch) {
		return err
	}
	if orders, err = s.newer(ctx, orders); err != nil {
		return err
	}
	return send(orders)
}

// staleSchema is what makes `run` send a batch again: an entry whose schema has changed, where features went out dense.
func (c *core) staleSchema(entries EntryErrors) error {
	if c.schemas != nil {
		for _, err := range entries {
			if errors.Is(err, ErrSchemaMismatch) {
				return err
			}
		}
	}
	return nil
}
