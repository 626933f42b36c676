package reckit_test

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rushteam/reckit/core"
	"google.golang.org/grpc"

	"github.com/twotower/twotower/clients/go/twotower"
)

// Tests that dial call a real server of the releases `dot` (active) and `cosine`, which tests/go/test_reckit.py starts
// before it runs them.
const targetVariable = "TWOTOWER_TEST_TARGET"

// calls counts the RPCs of a client by their names.
type calls struct {
	mu    sync.Mutex
	names []string
}

func (c *calls) intercept(
	ctx context.Context, method string, request, reply any, conn *grpc.ClientConn,
	invoke grpc.UnaryInvoker, opts ...grpc.CallOption,
) error {
	c.mu.Lock()
	c.names = append(c.names, method[len("/twotower.v1.TwoTowerService/"):])
	c.mu.Unlock()
	return invoke(ctx, method, request, reply, conn, opts...)
}

func (c *calls) want(t *testing.T, names ...string) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.Equal(c.names, names) {
		t.Errorf("%d RPCs: %v, want %v", len(c.names), c.names, names)
	}
	c.names = nil
}

// dial has both releases loaded, and `dot` active when the test is over.
func dial(t *testing.T) (*twotower.Client, *calls) {
	t.Helper()
	target := os.Getenv(targetVariable)
	if target == "" {
		t.Skip(targetVariable + " names no server: run by `make test-python`, which starts one")
	}
	setup := dialTo(t, target, twotower.WithTimeout(time.Minute), twotower.WithReady())
	if _, err := setup.Releases().LoadAndWait(t.Context(), "cosine"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := setup.Releases().Activate(context.Background(), "dot", ""); err != nil {
			t.Error(err)
		}
	})
	made := &calls{}
	return dialTo(t, target, twotower.WithTimeout(time.Minute),
		twotower.WithDialOptions(grpc.WithUnaryInterceptor(made.intercept))), made
}

func activate(t *testing.T, client *twotower.Client, release string) {
	t.Helper()
	if _, err := client.Releases().Activate(t.Context(), release, ""); err != nil {
		t.Fatal(err)
	}
}

// features knows one user, and the items that it has; names are written as given.
type features struct {
	user  map[string]float64
	items map[string]map[string]float64
}

func (f features) Name() string { return "features" }

func (f features) GetUserFeatures(context.Context, string) (map[string]float64, error) {
	return f.user, nil
}

func (f features) BatchGetUserFeatures(context.Context, []string) (map[string]map[string]float64, error) {
	return nil, nil
}

func (f features) GetItemFeatures(_ context.Context, id string) (map[string]float64, error) {
	return f.items[id], nil
}

func (f features) BatchGetItemFeatures(context.Context, []string) (map[string]map[string]float64, error) {
	return f.items, nil
}

func (f features) GetRealtimeFeatures(context.Context, string, string) (map[string]float64, error) {
	return nil, nil
}

func (f features) BatchGetRealtimeFeatures(
	context.Context, []core.FeatureUserItemPair,
) (map[core.FeatureUserItemPair]map[string]float64, error) {
	return nil, nil
}

func (f features) Close(context.Context) error { return nil }

var known = features{
	user: map[string]float64{"age": 41, "interest_sport": 0.8, "hour": 20},
	items: map[string]map[string]float64{
		"i1": {"price": 12.5, "ctr": 0.02}, "i2": {"item_price": 80, "ctr": 0.09}, "i3": {"price": 7},
	},
}

func recommended(t *testing.T, client *twotower.Client, request *twotower.RecommendRequest) *twotower.Recommendations {
	t.Helper()
	found, err := client.Recommend(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func idsOf(items []*core.Item) []string {
	ids := make([]string, len(items))
	for i, item := range items {
		ids[i] = item.ID
	}
	return ids
}

func sameItems(t *testing.T, what string, items []*core.Item, want *twotower.Recommendations) {
	t.Helper()
	if !slices.Equal(idsOf(items), want.ItemIDs()) || len(items) == 0 {
		t.Errorf("%s: %v, want %v", what, idsOf(items), want.ItemIDs())
	}
}

// someone has everything that a context can say.
func someone() *core.RecommendContext {
	return &core.RecommendContext{
		UserID: "u1",
		Attributes: map[string]any{
			"age": 41, "gender": "f", "recent_clicks": []string{"i7", "i9"}, "interest_sport": 0.8,
		},
		Params: map[string]any{"hour": 20, "scene_page": "cart"},
	}
}

var someoneSent = &twotower.User{
	ID:       "u1",
	Features: map[string]float64{"user_age": 41, "user_interest_sport": 0.8, "user_hour": 20},
	StringFeatures: map[string][]string{
		"user_gender": {"f"}, "user_recent_clicks": {"i7", "i9"}, "scene_page": {"cart"},
	},
}

// listen serves nothing, or what is registered.
func listen(t *testing.T, register func(*grpc.Server)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	if register != nil {
		server := grpc.NewServer()
		register(server)
		go func() { _ = server.Serve(listener) }()
		t.Cleanup(server.Stop)
	}
	return listener.Addr().String()
}

func dialTo(t *testing.T, target string, opts ...twotower.Option) *twotower.Client {
	t.Helper()
	client, err := twotower.Dial(t.Context(), target, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// wantCode looks inside what Reckit's own nodes wrap.
func wantCode(t *testing.T, what string, err error, code string) {
	t.Helper()
	var domain *core.DomainError
	if !errors.As(err, &domain) || domain.Code != code {
		t.Errorf("%s: %v, want %s", what, err, code)
	}
}

func candidates(ids ...string) []*core.Item {
	items := make([]*core.Item, len(ids))
	for i, id := range ids {
		items[i] = core.NewItem(id)
		items[i].Features = map[string]float64{"user_age": 30, "item_price": float64(10 * (i + 1))}
	}
	return items
}
