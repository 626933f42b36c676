package twotower

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	twotowerv1 "github.com/twotower/twotower/clients/go/gen/twotower/v1"
)

func TestCallsWithoutADeadlineHaveTheUsualOne(t *testing.T) {
	server := serve(t, sequence(served))
	client := dial(t, server.target, WithTimeout(time.Hour))
	if _, err := client.EmbedUser(t.Context(), someone); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Hour)
	defer cancel()
	if _, err := client.EmbedUser(ctx, someone); err != nil {
		t.Fatal(err)
	}
	if _, err := dial(t, server.target, WithTimeout(0)).EmbedUser(t.Context(), someone); err != nil {
		t.Fatal(err)
	}
	calls := server.received()
	for i, hours := range []float64{1, 3, 0} {
		if got := calls[i].deadline.Hours(); got > hours || got < hours-0.1 {
			t.Errorf("call %d has %v hours, want %v", i, got, hours)
		}
	}
}

func TestSwitchesAndChangesHaveLongerTimes(t *testing.T) {
	server := serve(t, sequence(&twotowerv1.ActivateReleaseResponse{Previous: "a"}, &twotowerv1.UpsertItemsResponse{}))
	client := dial(t, server.target, WithTimeout(time.Second))
	if previous, err := client.Releases().Activate(t.Context(), "b", ""); err != nil || previous != "a" {
		t.Fatal(previous, err)
	}
	if _, err := client.UpsertItems(t.Context(), []*ItemChange{{Item: &Item{ID: "i1"}}}); err != nil {
		t.Fatal(err)
	}
	calls := server.received()
	if calls[0].deadline < time.Minute || calls[1].deadline < 2*time.Second {
		t.Errorf("%v and %v", calls[0].deadline, calls[1].deadline)
	}
}

func TestACallEndsWithItsContext(t *testing.T) {
	server := serve(t, func(ctx context.Context, _ proto.Message) (proto.Message, error) {
		<-ctx.Done()
		return nil, status.FromContextError(ctx.Err()).Err()
	})
	client := dial(t, server.target)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := client.EmbedUser(ctx, someone); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := client.EmbedUser(ctx, someone); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestAClosedClientSaysSo(t *testing.T) {
	begun := make(chan struct{})
	server := serve(t, func(ctx context.Context, _ proto.Message) (proto.Message, error) {
		close(begun)
		<-ctx.Done()
		return nil, ctx.Err()
	})
	client := dial(t, server.target)
	inFlight := make(chan error)
	go func() {
		_, err := client.EmbedUser(context.Background(), someone)
		inFlight <- err
	}()
	<-begun
	if err := errors.Join(client.PinTo("r").Close(), client.Close(), client.Close()); err != nil {
		t.Fatal(err)
	}
	if err := <-inFlight; !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if _, err := client.EmbedUser(t.Context(), someone); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

func TestAPinnedViewDoesNotCloseTheConnections(t *testing.T) {
	server := serve(t, sequence(served))
	client := dial(t, server.target)
	if err := client.PinTo("r").Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := client.EmbedUser(t.Context(), someone); err != nil {
		t.Error(err)
	}
}

func TestPinAsksForTheActiveRelease(t *testing.T) {
	server := serve(t, func(_ context.Context, request proto.Message) (proto.Message, error) {
		switch request.(type) {
		case *twotowerv1.GetServingInfoRequest:
			return &twotowerv1.GetServingInfoResponse{ActiveRelease: "r7"}, nil
		case *twotowerv1.GetUserEmbeddingRequest:
			return served, nil
		case *twotowerv1.GetItemEmbeddingRequest:
			return &twotowerv1.GetItemEmbeddingResponse{}, nil
		case *twotowerv1.BatchGetUserEmbeddingsRequest:
			return &twotowerv1.BatchGetUserEmbeddingsResponse{Embeddings: make([]*twotowerv1.Embedding, 1)}, nil
		case *twotowerv1.BatchGetItemEmbeddingsRequest:
			return &twotowerv1.BatchGetItemEmbeddingsResponse{Embeddings: make([]*twotowerv1.Embedding, 1)}, nil
		case *twotowerv1.ScoreRequest:
			return &twotowerv1.ScoreResponse{}, nil
		case *twotowerv1.BatchScoreRequest:
			return &twotowerv1.BatchScoreResponse{Responses: make([]*twotowerv1.ScoreResponse, 2)}, nil
		case *twotowerv1.RecommendRequest:
			return &twotowerv1.RecommendResponse{}, nil
		case *twotowerv1.SearchItemsRequest:
			return &twotowerv1.SearchItemsResponse{}, nil
		}
		return nil, status.Error(codes.Unimplemented, "")
	})
	ctx := t.Context()
	pinned, err := dial(t, server.target).PinTo("r1").Pin(ctx)
	if err != nil || pinned.Release() != "r7" {
		t.Fatal(pinned, err)
	}
	if asked := server.received()[0].request.(*twotowerv1.GetServingInfoRequest); asked.Release != "" {
		t.Error("the old pin hides the active release")
	}
	item, score := &Item{Features: map[string]float64{"price": 1}}, &ScoreRequest{User: someone, ItemIDs: []string{"i1"}}
	elsewhere := &ScoreRequest{User: someone, ItemIDs: []string{"i1"}, Release: "r8"}
	for name, call := range map[string]func() error{
		"ServingInfo":      func() error { _, err := pinned.ServingInfo(ctx); return err },
		"EmbedUser":        func() error { _, err := pinned.EmbedUser(ctx, someone); return err },
		"GetUserEmbedding": func() error { _, err := pinned.GetUserEmbedding(ctx, someone.Features); return err },
		"EmbedUsers":       func() error { _, err := pinned.EmbedUsers(ctx, []*User{someone}); return err },
		"EmbedItem":        func() error { _, err := pinned.EmbedItem(ctx, item); return err },
		"GetItemEmbedding": func() error { _, err := pinned.GetItemEmbedding(ctx, item.Features); return err },
		"EmbedItems":       func() error { _, err := pinned.EmbedItems(ctx, []*Item{item}); return err },
		"ItemEmbedding":    func() error { _, err := pinned.ItemEmbedding(ctx, "i1"); return err },
		"ItemEmbeddings":   func() error { _, err := pinned.ItemEmbeddings(ctx, []string{"i1"}); return err },
		"Score":            func() error { _, err := pinned.Score(ctx, score); return err },
		"BatchScore":       func() error { _, err := pinned.BatchScore(ctx, []*ScoreRequest{score, elsewhere}); return err },
		"Recommend":        func() error { _, err := pinned.Recommend(ctx, &RecommendRequest{User: someone}); return err },
		"SearchItems":      func() error { _, err := pinned.SearchItems(ctx, &SearchRequest{ItemID: "i1"}); return err },
	} {
		if err := call(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		calls := server.received()
		last := calls[len(calls)-1].request
		if batch, ok := last.(*twotowerv1.BatchScoreRequest); ok {
			if batch.Requests[0].Release != "r7" || batch.Requests[1].Release != "r8" {
				t.Error(batch)
			}
			continue
		}
		if release := last.(interface{ GetRelease() string }).GetRelease(); release != "r7" {
			t.Errorf("%s goes to %q", name, release)
		}
	}
	if _, err := pinned.EmbedUser(ctx, someone, AtRelease("r9"), UseCache(CacheBypass)); err != nil {
		t.Fatal(err)
	}
	calls := server.received()
	last := calls[len(calls)-1].request.(*twotowerv1.GetUserEmbeddingRequest)
	if last.Release != "r9" || last.CacheMode != CacheBypass {
		t.Error(last)
	}
}

func TestPinWithoutAnActiveReleaseFails(t *testing.T) {
	server := serve(t, sequence(&twotowerv1.GetServingInfoResponse{}))
	if _, err := dial(t, server.target).Pin(t.Context()); !errors.Is(err, ErrReleaseNotLoaded) {
		t.Error(err)
	}
}

// ready serves users, and clients that ask whether it does.
func ready(_ context.Context, request proto.Message) (proto.Message, error) {
	if _, ok := request.(*twotowerv1.GetServingInfoRequest); ok {
		return &twotowerv1.GetServingInfoResponse{}, nil
	}
	return served, nil
}

func TestCallsUseAllConnections(t *testing.T) {
	server := serve(t, ready)
	client := dial(t, server.target, WithConnections(3), WithoutCoalescing(), WithReady())
	for _, one := range client.pool.connections {
		for state := one.GetState(); state != connectivity.Ready; state = one.GetState() {
			one.WaitForStateChange(t.Context(), state)
		}
	}
	for range 9 {
		if _, err := client.EmbedUser(t.Context(), someone); err != nil {
			t.Fatal(err)
		}
	}
	peers := map[string]int{}
	for _, call := range server.received() {
		if strings.HasSuffix(call.method, "/GetUserEmbedding") {
			peers[call.peer]++
		}
	}
	if len(peers) != 3 {
		t.Errorf("calls by connection: %v", peers)
	}
	for _, calls := range peers {
		if calls != 3 {
			t.Errorf("calls by connection: %v", peers)
		}
	}
}

func TestABrokenConnectionDrawsNoCalls(t *testing.T) {
	server := serve(t, ready)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := free.Addr().String()
	_ = free.Close()
	client, broken := dial(t, server.target, WithConnections(1), WithReady()), dial(t, nobody, WithConnections(1))
	dead := broken.pool.connections[0]
	for state := dead.GetState(); state != connectivity.TransientFailure; state = dead.GetState() {
		dead.WaitForStateChange(t.Context(), state)
	}
	both := &pool{connections: []*connection{dead, client.pool.connections[0]}}
	both.connections[1].inFlight.Store(100)
	for range 10 {
		if both.pick() == dead {
			t.Fatal("the broken one was picked")
		}
	}
}

func TestDialWaitsForAServerWhereAsked(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	target := free.Addr().String()
	_ = free.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := Dial(ctx, target, WithReady()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("nobody serves: %v", err)
	}
	client, err := Dial(t.Context(), target)
	if err != nil {
		t.Fatalf("Dial does not wait: %v", err)
	}
	defer client.Close()
	if _, err := client.EmbedUser(t.Context(), someone); !errors.Is(err, ErrUnavailable) {
		t.Error(err)
	}
}

func TestOptionsThatMakeNoSenseAreRefused(t *testing.T) {
	for _, option := range []Option{
		WithConnections(0), WithTimeout(-1), WithRetry(Retry{Attempts: -1}), WithCoalescing(Coalescing{Entries: -1}),
		WithToken("secret"),
	} {
		client, err := Dial(t.Context(), "localhost:1", option)
		if err == nil {
			_ = client.Close()
			t.Error("no error")
		} else if strings.Contains(err.Error(), "secret") {
			t.Error("the token is in the error")
		}
	}
}

func TestWhatHasNoFormOnTheWireIsRefusedHere(t *testing.T) {
	client := dial(t, "localhost:1")
	ctx := t.Context()
	for name, call := range map[string]func() error{
		"user":        func() error { _, err := client.EmbedUser(ctx, nil); return err },
		"users[1]":    func() error { _, err := client.EmbedUsers(ctx, []*User{someone, nil}); return err },
		"item":        func() error { _, err := client.EmbedItem(ctx, nil); return err },
		"items[0]":    func() error { _, err := client.EmbedItems(ctx, []*Item{nil}); return err },
		"request":     func() error { _, err := client.Score(ctx, nil); return err },
		"requests[0]": func() error { _, err := client.BatchScore(ctx, []*ScoreRequest{nil}); return err },
		"changes[0]":  func() error { _, err := client.UpsertItems(ctx, []*ItemChange{nil}); return err },
	} {
		var refused *Error
		if err := call(); !errors.As(err, &refused) || !errors.Is(err, ErrFieldRequired) || refused.Field != name {
			t.Errorf("%s: %v", name, err)
		}
	}
	bad := "\xff"
	for field, call := range map[string]func() error{
		"user.user_id": func() error { _, err := client.EmbedUser(ctx, &User{ID: bad}); return err },
		"users[1].string_features[city]": func() error {
			_, err := client.EmbedUsers(ctx, []*User{someone, {StringFeatures: map[string][]string{"city": {bad}}}})
			return err
		},
		`item.features["\xff"]`: func() error { _, err := client.GetItemEmbedding(ctx, map[string]float64{bad: 1}); return err },
		"requests[0].user.feature_version": func() error {
			_, err := client.BatchScore(ctx, []*ScoreRequest{{User: &User{FeatureVersion: bad}}})
			return err
		},
		"item_ids[1]": func() error {
			_, err := client.Score(ctx, &ScoreRequest{User: someone, ItemIDs: []string{"i1", bad}, RequireAll: true})
			return err
		},
	} {
		var refused *Error
		if err := call(); !errors.As(err, &refused) || refused.Code != codes.InvalidArgument || refused.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
}

// counting is a stats.Handler.
type counting struct{ ended, connections atomic.Int32 }

func (*counting) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (*counting) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (c *counting) HandleRPC(_ context.Context, event stats.RPCStats) {
	if _, ok := event.(*stats.End); ok {
		c.ended.Add(1)
	}
}
func (c *counting) HandleConn(_ context.Context, event stats.ConnStats) {
	if _, ok := event.(*stats.ConnBegin); ok {
		c.connections.Add(1)
	}
}

func TestAStatsHandlerSeesCallsAndConnections(t *testing.T) {
	server, handler := serve(t, sequence(served)), &counting{}
	client := dial(t, server.target, WithStatsHandler(handler), WithConnections(1))
	for range 3 {
		if _, err := client.EmbedUser(t.Context(), someone); err != nil {
			t.Fatal(err)
		}
	}
	if handler.ended.Load() != 3 || handler.connections.Load() != 1 {
		t.Errorf("%d calls, %d connections", handler.ended.Load(), handler.connections.Load())
	}
	if agent := server.received()[0].metadata.Get("user-agent"); !strings.HasPrefix(agent[0], userAgent) {
		t.Error(agent)
	}
}

func TestAMessageOver4MiBIsRefusedHere(t *testing.T) {
	server := serve(t, sequence(served))
	users := make([]*User, 10_000)
	for i := range users {
		users[i] = &User{RoutingKey: strings.Repeat("k", 500)}
	}
	if _, err := dial(t, server.target).EmbedUsers(t.Context(), users); status.Code(err) != codes.ResourceExhausted {
		t.Error(err)
	}
	if len(server.received()) != 0 {
		t.Error("it was sent")
	}
}
