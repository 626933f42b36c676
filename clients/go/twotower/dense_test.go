package twotower

import (
	"context"
	"errors"
	"maps"
	"math"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	twotowerv1 "github.com/twotower/twotower/clients/go/gen/twotower/v1"
)

func release(name string, fingerprint uint64, active bool, names ...string) *twotowerv1.ReleaseInfo {
	return &twotowerv1.ReleaseInfo{
		Release: name, Active: active,
		UserSchema: &twotowerv1.TowerSchema{Fingerprint: fingerprint, DenseOrder: names},
		ItemSchema: &twotowerv1.TowerSchema{Fingerprint: fingerprint + 1, DenseOrder: []string{"item_price"}},
	}
}

func infoOf(releases ...*twotowerv1.ReleaseInfo) *twotowerv1.GetServingInfoResponse {
	return &twotowerv1.GetServingInfoResponse{Releases: releases}
}

func TestDenseFeaturesStandInTheOrderOfTheSchema(t *testing.T) {
	order := newDenseOrder(&twotowerv1.TowerSchema{DenseOrder: []string{"hour", "user_age", "user_ctr", "user_hour"}}, "user_")
	nan := math.NaN()
	for name, test := range map[string]struct {
		features, named map[string]float64
		dense           []float64
	}{
		"every spelling":    {map[string]float64{"age": 34, "user_user_ctr": 0.5}, nil, []float64{nan, 34, 0.5, nan}},
		"the exact wins":    {map[string]float64{"age": 1, "user_age": 2, "user_user_age": 3}, nil, []float64{nan, 2, nan, nan}},
		"then the short":    {map[string]float64{"user_user_age": 3, "age": 1}, nil, []float64{nan, 1, nan, nan}},
		"exact of another":  {map[string]float64{"hour": 7}, nil, []float64{7, nan, nan, nan}},
		"the rest by name":  {map[string]float64{"age": 34, "interest_film": 1}, map[string]float64{"interest_film": 1}, []float64{nan, 34, nan, nan}},
		"nothing known":     {map[string]float64{"agee": 34}, map[string]float64{"agee": 34}, nil},
		"nothing":           {nil, nil, nil},
		"an item's feature": {map[string]float64{"age": 1, "item_price": 2}, map[string]float64{"item_price": 2}, []float64{nan, 1, nan, nan}},
	} {
		dense, named := order.split(test.features)
		if !maps.Equal(named, test.named) || len(dense) != len(test.dense) {
			t.Errorf("%s: %v and %v", name, dense, named)
			continue
		}
		for i, want := range test.dense {
			if got := float64(dense[i]); got != want && !(math.IsNaN(got) && math.IsNaN(want)) {
				t.Errorf("%s: %v, want %v", name, dense, test.dense)
			}
		}
	}
}

func TestTheSchemaIsFetchedOnceForAll(t *testing.T) {
	server := serve(t, func(_ context.Context, request proto.Message) (proto.Message, error) {
		if _, ok := request.(*twotowerv1.GetServingInfoRequest); ok {
			return infoOf(release("r1", 7, true, "user_age")), nil
		}
		return served, nil
	})
	client := dial(t, server.target, WithDenseFeatures(), WithoutCoalescing())
	var group sync.WaitGroup
	for range 20 {
		group.Add(1)
		go func() {
			defer group.Done()
			if _, err := client.EmbedUser(t.Context(), someone); err != nil {
				t.Error(err)
			}
		}()
	}
	group.Wait()
	fetched := 0
	for _, call := range server.received() {
		switch request := call.request.(type) {
		case *twotowerv1.GetServingInfoRequest:
			fetched++
		case *twotowerv1.GetUserEmbeddingRequest:
			want := &twotowerv1.User{UserId: "u1", DenseFeatures: []float32{34}, SchemaFingerprint: 7}
			if !proto.Equal(request.User, want) {
				t.Error(request.User)
			}
		}
	}
	if fetched != 1 {
		t.Errorf("the schema was fetched %d times", fetched)
	}
}

// switched answers by schema 1 at first and wants schema 2 of dense features.
func switched() func(context.Context, proto.Message) (proto.Message, error) {
	var fetched atomic.Uint64
	mismatch := twotowerv1.ErrorReason_ERROR_REASON_SCHEMA_MISMATCH
	problem := &twotowerv1.Problem{Index: 0, Code: int32(codes.FailedPrecondition), Reason: mismatch}
	return func(_ context.Context, request proto.Message) (proto.Message, error) {
		switch request := request.(type) {
		case *twotowerv1.GetServingInfoRequest:
			return infoOf(release("r1", fetched.Add(1), true, "user_age")), nil
		case *twotowerv1.GetUserEmbeddingRequest:
			if request.User.SchemaFingerprint != 2 {
				return nil, refusal(codes.FailedPrecondition, mismatch)
			}
			return served, nil
		case *twotowerv1.BatchGetUserEmbeddingsRequest:
			response := &twotowerv1.BatchGetUserEmbeddingsResponse{Embeddings: make([]*twotowerv1.Embedding, len(request.Users))}
			if request.Users[0].SchemaFingerprint != 2 {
				response.Problems = []*twotowerv1.Problem{problem}
			}
			return response, nil
		case *twotowerv1.BatchGetItemEmbeddingsRequest:
			response := &twotowerv1.BatchGetItemEmbeddingsResponse{Embeddings: make([]*twotowerv1.Embedding, len(request.Items))}
			if request.Items[0].SchemaFingerprint != 3 {
				response.Problems = []*twotowerv1.Problem{problem}
			}
			return response, nil
		case *twotowerv1.BatchScoreRequest:
			response := &twotowerv1.BatchScoreResponse{Responses: make([]*twotowerv1.ScoreResponse, len(request.Requests))}
			if request.Requests[0].User.SchemaFingerprint != 2 {
				response.Problems = []*twotowerv1.Problem{problem}
			}
			return response, nil
		case *twotowerv1.ScoreRequest:
			response := &twotowerv1.ScoreResponse{}
			if request.Items[0].SchemaFingerprint != 3 {
				response.Problems = []*twotowerv1.Problem{problem}
			}
			return response, nil
		}
		return nil, errors.New("not expected")
	}
}

func TestASchemaThatHasChangedIsFetchedAgainAndTheCallSentOnceMore(t *testing.T) {
	item := &Item{Features: map[string]float64{"price": 1}}
	for name, call := range map[string]func(context.Context, *Client) (EntryErrors, error){
		"EmbedUser": func(ctx context.Context, c *Client) (EntryErrors, error) {
			_, err := c.EmbedUser(ctx, someone)
			return nil, err
		},
		"EmbedUsers": func(ctx context.Context, c *Client) (EntryErrors, error) {
			found, err := c.EmbedUsers(ctx, []*User{someone, someone})
			return found.Errors, err
		},
		"EmbedItems": func(ctx context.Context, c *Client) (EntryErrors, error) {
			found, err := c.EmbedItems(ctx, []*Item{item})
			return found.Errors, err
		},
		"BatchScore": func(ctx context.Context, c *Client) (EntryErrors, error) {
			found, err := c.BatchScore(ctx, []*ScoreRequest{{User: someone, ItemIDs: []string{"i1"}}})
			return found.Errors, err
		},
		"Score of items": func(ctx context.Context, c *Client) (EntryErrors, error) {
			found, err := c.Score(ctx, &ScoreRequest{User: someone, Items: []*Item{item}})
			return found.Errors, err
		},
	} {
		server := serve(t, switched())
		problems, err := call(t.Context(), dial(t, server.target, WithDenseFeatures()))
		if err != nil || len(problems) > 0 {
			t.Errorf("%s: %v, %v", name, err, problems)
		}
		if calls := len(server.received()); calls != 4 {
			t.Errorf("%s: %v", name, server.methods())
		}
	}
}

func TestASchemaThatKeepsChangingIsAnError(t *testing.T) {
	never := refusal(codes.FailedPrecondition, twotowerv1.ErrorReason_ERROR_REASON_SCHEMA_MISMATCH)
	server := serve(t, func(_ context.Context, request proto.Message) (proto.Message, error) {
		if _, ok := request.(*twotowerv1.GetServingInfoRequest); ok {
			return infoOf(release("r1", 1, true, "user_age")), nil
		}
		return nil, never
	})
	if _, err := dial(t, server.target, WithDenseFeatures()).EmbedUser(t.Context(), someone); !errors.Is(err, ErrSchemaMismatch) {
		t.Error(err)
	}
	if calls := len(server.received()); calls != 4 {
		t.Error(server.methods())
	}
}

func TestFeaturesGoByNameWhereOnlyTheServerKnowsTheSchema(t *testing.T) {
	one, other := release("r1", 1, true, "user_age"), release("r2", 2, false, "user_age")
	other.TrafficShare = 0.5
	server := serve(t, func(_ context.Context, request proto.Message) (proto.Message, error) {
		if _, ok := request.(*twotowerv1.GetServingInfoRequest); ok {
			return infoOf(one, other, release("r3", 3, false, "user_age")), nil
		}
		return served, nil
	})
	client := dial(t, server.target, WithDenseFeatures())
	for pin, fingerprint := range map[string]uint64{"": 0, "r1": 1, "r2": 2, "r3": 3, "gone": 0} {
		if _, err := client.PinTo(pin).EmbedUser(t.Context(), someone); err != nil {
			t.Fatal(err)
		}
		calls := server.received()
		if user := calls[len(calls)-1].request.(*twotowerv1.GetUserEmbeddingRequest).User; user.SchemaFingerprint != fingerprint {
			t.Errorf("at %q: %v", pin, user)
		}
	}
}
