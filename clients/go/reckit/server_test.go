package reckit_test

import (
	"context"
	"fmt"
	"math"
	"os"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rushteam/reckit/core"
	"github.com/rushteam/reckit/feature"
	"github.com/rushteam/reckit/pipeline"
	"github.com/rushteam/reckit/pkg/utils"
	"github.com/rushteam/reckit/rank"
	"github.com/rushteam/reckit/recall"
	"github.com/rushteam/reckit/rerank"
	"google.golang.org/grpc"

	"github.com/twotower/twotower/clients/go/reckit"
	"github.com/twotower/twotower/clients/go/twotower"
)

// The tests of this file call a real server of the releases `dot` (active) and `cosine`, which tests/go/test_reckit.py
// starts before it runs them.
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

// switching makes another release active between the two calls of TwoTowerRecall.
type switching struct {
	*reckit.Service
	after func()
}

func (s switching) Predict(ctx context.Context, req *core.MLPredictRequest) (*core.MLPredictResponse, error) {
	defer s.after()
	return s.Service.Predict(ctx, req)
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

func TestTwoTowerRecallSearchesInTheReleaseThatMadeItsVector(t *testing.T) {
	client, _ := dial(t)
	service := reckit.New(client)
	user := &twotower.User{Features: known.user}
	byDot := recommended(t, client.PinTo("dot"), &twotower.RecommendRequest{User: user})
	byCosine := recommended(t, client.PinTo("cosine"), &twotower.RecommendRequest{User: user})
	tower := switching{service, func() { activate(t, client, "cosine") }}
	items, err := recall.NewTwoTowerRecall(known, tower, service).Recall(t.Context(), &core.RecommendContext{UserID: "u1"})
	if err != nil {
		t.Fatal(err)
	}
	sameItems(t, "switched between the calls", items, byDot)
	if got := items[0].Score; math.Abs(got-float64(byDot.Items[0].Similarity)) > 1e-5 {
		t.Errorf("score %v, want the similarity %v", got, byDot.Items[0].Similarity)
	}
	items, err = recall.NewTwoTowerRecall(known, service, service).Recall(t.Context(), &core.RecommendContext{UserID: "u1"})
	if err != nil {
		t.Fatal(err)
	}
	sameItems(t, "after the switch", items, byCosine)
	if slices.Equal(byDot.ItemIDs(), byCosine.ItemIDs()) {
		t.Error("both releases find the same: this test shows nothing")
	}
}

func TestTheDefaultsOfBothSourcesMeanTheActiveRelease(t *testing.T) {
	client, _ := dial(t)
	service := reckit.New(client)
	for _, active := range []string{"dot", "cosine"} {
		activate(t, client, active)
		user := &twotower.User{Features: known.user}
		vector, err := client.EmbedUser(t.Context(), user)
		if err != nil || vector.Release != active {
			t.Fatal(vector, err)
		}
		stored := make([]float64, len(vector.Values)) // by the pipeline, not by the service
		for i, value := range vector.Values {
			stored[i] = float64(value)
		}
		rctx := &core.RecommendContext{UserID: "u1", Attributes: map[string]any{"user_embedding": stored}}
		items, err := (&recall.ANN{VectorService: service}).Recall(t.Context(), rctx)
		if err != nil {
			t.Fatal(err)
		}
		ten := recommended(t, client, &twotower.RecommendRequest{User: user, Selection: twotower.Selection{K: 10}})
		sameItems(t, "ANN", items, ten)
		items, err = recall.NewTwoTowerRecall(known, service, service, recall.WithTwoTowerTopK(10)).Recall(t.Context(), rctx)
		if err != nil {
			t.Fatal(err)
		}
		sameItems(t, "TwoTowerRecall", items, ten)
	}
}

func TestACollectionIsALoadedRelease(t *testing.T) {
	client, _ := dial(t)
	service, ctx := reckit.New(client), t.Context()
	vector, err := client.PinTo("cosine").EmbedUser(ctx, &twotower.User{Features: known.user})
	if err != nil {
		t.Fatal(err)
	}
	request := &core.VectorSearchRequest{Vector: make([]float64, len(vector.Values)), TopK: 5}
	for i, value := range vector.Values {
		request.Vector[i] = float64(value)
	}
	want := recommended(t, client, &twotower.RecommendRequest{Embedding: &vector.Embedding, Selection: twotower.Selection{K: 5}})
	for _, metric := range []string{"cosine", "inner_product", ""} {
		request.Collection, request.Metric = "cosine", metric
		found, err := service.Search(ctx, request)
		if err != nil || len(found.Items) != 5 {
			t.Fatal(found, err)
		}
		for i, item := range found.Items {
			similarity := float64(want.Items[i].Similarity)
			if item.ID != want.Items[i].ItemID || item.Score != similarity || item.Distance != 1-similarity {
				t.Errorf("%+v, want %+v", item, want.Items[i])
			}
		}
	}
	for _, name := range []string{"nowhere", "Not A Name", "items2"} {
		request.Collection = name
		if _, err := service.Search(ctx, request); !core.IsNotFound(err) {
			t.Error(name, err)
		}
	}

	made, err := service.Predict(ctx, &core.MLPredictRequest{Features: []map[string]float64{known.user}})
	if err != nil || made.ModelVersion != "dot" {
		t.Fatal(made, err)
	}
	for collection, code := range map[string]string{
		"items": "", "item_embeddings": "", "": "", "dot": "",
		"cosine": core.ErrorCodeInvalidInput, "nowhere": core.ErrorCodeNotFound,
	} {
		_, err := service.Search(ctx, &core.VectorSearchRequest{Collection: collection, Vector: made.Predictions})
		if code != "" {
			wantCode(t, "a vector of dot in "+collection, err, code)
		} else if err != nil {
			t.Errorf("a vector of dot in %q: %v", collection, err)
		}
	}
	for collection, want := range map[string]bool{"items": true, "item_embeddings": true, "dot": true, "cosine": true, "nowhere": false} {
		if has, err := service.HasCollection(ctx, collection); has != want || err != nil {
			t.Error(collection, has, err)
		}
	}
	_, err = service.Search(ctx, &core.VectorSearchRequest{Vector: []float64{1, 2, 3}})
	wantCode(t, "another dimension", err, core.ErrorCodeInvalidInput)
}

func TestPredictAnswersForAllOrFails(t *testing.T) {
	client, _ := dial(t)
	service, ctx := reckit.New(client), t.Context()
	if err := service.Health(ctx); err != nil {
		t.Error(err)
	}
	other := map[string]float64{"age": 20}
	both, err := service.Predict(ctx, &core.MLPredictRequest{
		Features: []map[string]float64{known.user, other}, ModelName: "user_tower", ModelVersion: "cosine",
	})
	if err != nil || both.ModelVersion != "cosine" {
		t.Fatal(both, err)
	}
	for i, user := range []map[string]float64{known.user, other} {
		vector, err := client.PinTo("cosine").GetUserEmbedding(ctx, user)
		if err != nil {
			t.Fatal(err)
		}
		dimension := len(vector.Values)
		if len(both.Predictions) != 2*dimension {
			t.Fatal(len(both.Predictions))
		}
		for j, value := range vector.Values {
			if math.Abs(both.Predictions[i*dimension+j]-float64(value)) > 1e-5 {
				t.Errorf("user %d: value %d", i, j)
			}
		}
	}
	for name, bad := range map[string]map[string]float64{"not finite": {"age": math.NaN()}, "unknown": {"colour": 1}} {
		for _, users := range [][]map[string]float64{{bad}, {known.user, bad}} {
			_, err := service.Predict(ctx, &core.MLPredictRequest{Features: users})
			wantCode(t, name, err, core.ErrorCodeInvalidInput)
		}
	}
	_, err = service.Predict(ctx, &core.MLPredictRequest{Features: []map[string]float64{known.user}, ModelVersion: "gone"})
	wantCode(t, "a release that is not loaded", err, core.ErrorCodeNotFound)
}

func TestSearchFiltersByAttributes(t *testing.T) {
	client, _ := dial(t)
	service, ctx := reckit.New(client), t.Context()
	made, err := service.Predict(ctx, &core.MLPredictRequest{Features: []map[string]float64{known.user}})
	if err != nil {
		t.Fatal(err)
	}
	all := recommended(t, client, &twotower.RecommendRequest{
		User:      &twotower.User{Features: known.user},
		Selection: twotower.Selection{K: 300, ReturnAttributes: []string{"category", "in_stock", "price", "title"}},
	})
	for _, conditions := range []map[string]any{
		{"category": "film", "in_stock": true},
		{"category": []string{"film", "books"}},
		{"price": all.Items[3].Attributes["price"]},
		{"price": []float64{all.Items[3].Attributes["price"].(float64), 1}, "in_stock": all.Items[3].Attributes["in_stock"]},
	} {
		found, err := service.Search(ctx, &core.VectorSearchRequest{Vector: made.Predictions, TopK: 300, Filter: conditions})
		if err != nil {
			t.Fatal(conditions, err)
		}
		var want, got []string
		for _, item := range all.Items {
			if holds(item.Attributes, conditions) {
				want = append(want, item.ItemID)
			}
		}
		for _, item := range found.Items {
			got = append(got, item.ID)
		}
		if !slices.Equal(got, want) || len(want) == 0 {
			t.Errorf("%v: %v, want %v", conditions, got, want)
		}
	}
	_, err = service.Search(ctx, &core.VectorSearchRequest{Vector: made.Predictions, Filter: map[string]any{"colour": "red"}})
	wantCode(t, "an attribute that no item has", err, core.ErrorCodeInvalidInput)
}

func holds(attributes, conditions map[string]any) bool {
	for name, condition := range conditions {
		switch condition := condition.(type) {
		case []string:
			text, _ := attributes[name].(string)
			if !slices.Contains(condition, text) {
				return false
			}
		case []float64:
			number, _ := attributes[name].(float64)
			if !slices.Contains(condition, number) {
				return false
			}
		default:
			if attributes[name] != condition {
				return false
			}
		}
	}
	return true
}

func TestVectorsAreInsertedUpdatedAndDeleted(t *testing.T) {
	client, _ := dial(t)
	service, ctx := reckit.New(client), t.Context()
	made, err := service.Predict(ctx, &core.MLPredictRequest{Features: []map[string]float64{known.user}})
	if err != nil {
		t.Fatal(err)
	}
	near := make([]float64, len(made.Predictions))
	for i, value := range made.Predictions {
		near[i] = 100 * value
	}
	first := func() string {
		t.Helper()
		found, err := service.Search(ctx, &core.VectorSearchRequest{Vector: made.Predictions, TopK: 1})
		if err != nil || len(found.Items) != 1 {
			t.Fatal(found, err)
		}
		return found.Items[0].ID
	}
	before := first()
	count := 2500 // more than go in one call
	ids, vectors := make([]string, count), make([][]float64, count)
	metadata := make([]map[string]any, count)
	for i := range ids {
		ids[i], vectors[i] = fmt.Sprint("inserted-", i), make([]float64, len(near))
		metadata[i] = map[string]any{"title": "New", "price": int64(i), "in_stock": true}
	}
	vectors[count-1] = near
	insert := &core.VectorInsertRequest{Collection: "items", IDs: ids, Vectors: vectors, Metadata: metadata}
	if err := service.Insert(ctx, insert); err != nil {
		t.Fatal(err)
	}
	if got := first(); got != ids[count-1] {
		t.Errorf("%s is the nearest, not the inserted one", got)
	}
	stored, err := client.ItemEmbeddings(ctx, ids)
	if err != nil || len(stored.Missing) != 0 {
		t.Fatal(len(stored.Missing), err)
	}
	if err := service.Update(ctx, &core.VectorUpdateRequest{ID: ids[count-1], Vector: vectors[0]}); err != nil {
		t.Fatal(err)
	}
	if got := first(); got != before {
		t.Errorf("%s is the nearest after the update, want %s", got, before)
	}
	if err := service.Delete(ctx, &core.VectorDeleteRequest{Collection: "item_embeddings", IDs: append(ids, "gone")}); err != nil {
		t.Fatal(err)
	}
	if stored, err = client.ItemEmbeddings(ctx, ids); err != nil || len(stored.Missing) != count {
		t.Fatal(len(stored.Missing), err)
	}

	short := &core.VectorInsertRequest{IDs: []string{"a", "b"}, Vectors: [][]float64{near, {1}}}
	wantCode(t, "another dimension", service.Insert(ctx, short), core.ErrorCodeInvalidInput)
	insert.Collection = "nowhere"
	wantCode(t, "insert into nowhere", service.Insert(ctx, insert), core.ErrorCodeNotFound)
	gone := &core.VectorDeleteRequest{Collection: "nowhere", IDs: []string{"a"}}
	wantCode(t, "delete from nowhere", service.Delete(ctx, gone), core.ErrorCodeNotFound)
	gone.Collection = "dot"
	wantCode(t, "delete from one release", service.Delete(ctx, gone), core.ErrorCodeNotSupported)
	gone.Collection = "items"
	if err := service.Delete(ctx, gone); err != nil {
		t.Error(err)
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

func TestRecallMakesOneCallWithTheSequencesOfTheUser(t *testing.T) {
	client, made := dial(t)
	never := append(make([]string, 0, 9), "i0") // with room behind it
	source := &reckit.Recall{
		Client: client,
		Selection: twotower.Selection{
			K: 20, ReturnAttributes: []string{"title", "price"}, IncludeEmbeddings: true, ExcludeItemIDs: never,
		},
		Select: func(rctx *core.RecommendContext, selection twotower.Selection) twotower.Selection {
			selection.ExcludeItemIDs = append(selection.ExcludeItemIDs, rctx.Attributes["recent_clicks"].([]string)...)
			return selection
		},
	}
	fanout := &recall.Fanout{Sources: []recall.Source{source}, Dedup: true, Timeout: time.Minute}
	items, err := fanout.Process(t.Context(), someone(), nil)
	if err != nil {
		t.Fatal(err)
	}
	made.want(t, "Recommend")
	want := recommended(t, client, &twotower.RecommendRequest{User: someoneSent, Selection: twotower.Selection{
		K: 20, ReturnAttributes: []string{"title", "price"}, IncludeEmbeddings: true, ExcludeItemIDs: []string{"i0", "i7", "i9"},
	}})
	sameItems(t, "recall", items, want)
	for i, item := range items {
		one := want.Items[i]
		vector, ok := item.Meta["embedding"].([]float64) // what the re-rankers take
		if !ok || len(vector) != len(one.Embedding.Values) || float32(vector[0]) != one.Embedding.Values[0] {
			t.Fatalf("%+v", item.Meta)
		}
		if item.Score != float64(one.Score) || item.Meta["similarity"] != float64(one.Similarity) ||
			item.Meta["title"] != one.Attributes["title"] || item.Labels["recall_release"].Value != "dot" ||
			item.Labels["recall_source"].Value != "recall.two_tower" {
			t.Errorf("%+v, want %+v", item, one)
		}
	}
	rctx := someone()
	rctx.Attributes["recent_clicks"] = []string{"i200", "i201"}
	others, err := source.Recall(t.Context(), rctx)
	if err != nil || slices.Equal(idsOf(others), idsOf(items)) {
		t.Error("other clicks change nothing", err)
	}
	for _, id := range idsOf(others) {
		if slices.Contains([]string{"i0", "i200", "i201"}, id) {
			t.Errorf("%s was excluded", id)
		}
	}
	if all := never[:cap(never)]; all[1] != "" {
		t.Error("one request wrote into the selection of all: ", all)
	}

	source.User = func(*core.RecommendContext) *twotower.User { return &twotower.User{Features: known.user} }
	source.Selection, source.Select, source.NodeName = twotower.Selection{K: 3}, nil, "mine"
	items, err = source.Recall(t.Context(), nil)
	if err != nil || source.Name() != "mine" {
		t.Fatal(err)
	}
	sameItems(t, "a user of its own", items, recommended(t, client, &twotower.RecommendRequest{
		User: &twotower.User{Features: known.user}, Selection: twotower.Selection{K: 3},
	}))
	_, err = source.Recall(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	source.User = nil
	_, err = source.Recall(t.Context(), &core.RecommendContext{UserID: "nothing is known"})
	wantCode(t, "a user without features", err, core.ErrorCodeInvalidInput)
}

func TestRankScoresAllInOneCallAndLeavesMissingOnesAsTheyWere(t *testing.T) {
	client, made := dial(t)
	var ids []string
	for i := range 200 {
		ids = append(ids, fmt.Sprint("i", i))
	}
	ids = slices.Insert(ids, 150, "gone-1")
	ids = slices.Insert(ids, 3, "gone-2")
	items := make([]*core.Item, len(ids))
	for i, id := range ids {
		items[i] = core.NewItem(id)
	}
	items[3].Score = 1234
	items = slices.Insert(items, 10, (*core.Item)(nil))
	items[11].Meta, items[11].Labels = nil, nil // as a source may leave them
	given := slices.Clone(items)
	node := &reckit.Rank{Client: client, Embeddings: true}
	ranked, err := node.Process(t.Context(), someone(), items)
	if err != nil {
		t.Fatal(err)
	}
	made.want(t, "Score", "BatchGetItemEmbeddings")
	if !slices.Equal(items, given) {
		t.Error("the order of the given items was changed")
	}
	want, err := client.Score(t.Context(), &twotower.ScoreRequest{User: someoneSent, ItemIDs: ids})
	if err != nil {
		t.Fatal(err)
	}
	order := want.Order()[:200]
	if len(ranked) != 202 {
		t.Fatal(len(ranked))
	}
	for place, i := range order {
		item := ranked[place]
		if item.ID != ids[i] || item.Score != float64(want.Scores[i]) || item.Meta["similarity"] != float64(want.Similarities[i]) ||
			item.Labels["rank_model"].Value != "two_tower" || item.Labels["rank_release"].Value != "dot" {
			t.Fatalf("place %d: %+v, want %s %v", place, item, ids[i], want.Scores[i])
		}
		if vector, ok := item.Meta["embedding"].([]float64); !ok || len(vector) == 0 {
			t.Fatalf("%+v", item.Meta)
		}
	}
	stored, err := client.ItemEmbedding(t.Context(), ranked[0].ID)
	if err != nil || float32(ranked[0].Meta["embedding"].([]float64)[1]) != stored.Values[1] {
		t.Error(stored, err)
	}
	untouched := map[string]utils.Label{reckit.LabelMissing: {Value: "two_tower", Source: "rank"}}
	for place, score := range map[int]float64{200: 1234, 201: 0} {
		item := ranked[place]
		if item.Score != score || len(item.Meta) != 0 || !reflect.DeepEqual(item.Labels, untouched) {
			t.Errorf("%+v", item)
		}
	}
	if ranked[200].ID != "gone-2" || ranked[201].ID != "gone-1" {
		t.Error(ranked[200].ID, ranked[201].ID)
	}
}

func TestReRankersFindTheVectorsOfRecallAndOfRank(t *testing.T) {
	client, _ := dial(t)
	for name, nodes := range map[string][]pipeline.Node{
		"recall": {&recall.Fanout{Sources: []recall.Source{
			&reckit.Recall{Client: client, Selection: twotower.Selection{K: 50, IncludeEmbeddings: true}},
		}}},
		"rank": {
			&recall.Fanout{Sources: []recall.Source{&reckit.Recall{Client: client, Selection: twotower.Selection{K: 50}}}},
			&reckit.Rank{Client: client, Embeddings: true},
		},
	} {
		p := &pipeline.Pipeline{Nodes: append(nodes, &rerank.DPPDiversityNode{N: 5, Alpha: 1})}
		items, err := p.Run(t.Context(), someone(), nil)
		if err != nil || len(items) != 5 {
			t.Error(name, len(items), err)
		}
	}
}

// recovering is a pipeline.ErrorHook that goes on.
type recovering struct{ seen []error }

func (r *recovering) OnNodeError(_ context.Context, _ *core.RecommendContext, _ pipeline.Node, err error) bool {
	r.seen = append(r.seen, err)
	return true
}

func TestAPipelineGoesOnWithItsCandidatesWhereRankFails(t *testing.T) {
	client, _ := dial(t)
	hook := &recovering{}
	p := &pipeline.Pipeline{
		Nodes: []pipeline.Node{
			&recall.Fanout{Sources: []recall.Source{&reckit.Recall{Client: client, Selection: twotower.Selection{K: 5}}}},
			&reckit.Rank{Client: client.PinTo("gone"), Embeddings: true},
			&reckit.Rank{Client: client, User: func(*core.RecommendContext) *twotower.User {
				return &twotower.User{Features: map[string]float64{"age": math.Inf(1)}}
			}},
		},
		ErrorHooks: []pipeline.ErrorHook{hook},
	}
	items, err := p.Run(t.Context(), someone(), nil)
	if err != nil || len(items) != 5 || len(hook.seen) != 2 {
		t.Fatal(items, err, hook.seen)
	}
	if !core.IsNotFound(hook.seen[0]) || core.GetDomainError(hook.seen[1]).Code != core.ErrorCodeInvalidInput {
		t.Error(hook.seen)
	}
	for _, item := range items {
		if item.Score <= 0 || item.Labels["rank_model"].Value != "" {
			t.Errorf("%+v", item)
		}
	}
}

func TestWhatEnrichNodeWritesIsReadUnderAnyOfItsNames(t *testing.T) {
	client, made := dial(t)
	want, err := client.Score(t.Context(), &twotower.ScoreRequest{
		User:    &twotower.User{Features: map[string]float64{"user_age": 41, "user_interest_sport": 0.8, "user_hour": 20}},
		ItemIDs: []string{"i1", "i2", "i3"},
	})
	if err != nil {
		t.Fatal(err)
	}
	computed, err := client.Score(t.Context(), &twotower.ScoreRequest{
		User: &twotower.User{Features: map[string]float64{"user_age": 41, "user_interest_sport": 0.8, "user_hour": 20}},
		Items: []*twotower.Item{
			{Features: map[string]float64{"item_price": 12.5, "item_ctr": 0.02}},
			{Features: map[string]float64{"item_price": 80, "item_ctr": 0.09}},
			{Features: map[string]float64{"item_price": 7}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	made.want(t, "Score", "Score")
	doubled := features{user: map[string]float64{}, items: known.items}
	for name, value := range known.user {
		doubled.user["user_"+name] = value // EnrichNode makes user_user_age of it
	}
	model := reckit.NewRankModel(client, time.Minute)
	for name, service := range map[string]features{"plain": known, "doubled": doubled} {
		for _, c := range []struct {
			node  pipeline.Node
			want  *twotower.Scores
			calls []string
		}{
			{&reckit.Rank{Client: client}, want, []string{"Score"}},
			{&rank.RPCNode{Model: model}, computed, []string{"Score"}},
			{&rank.TwoTowerNode{Model: model}, computed, []string{"Score", "Score", "Score"}},
		} {
			p := &pipeline.Pipeline{Nodes: []pipeline.Node{
				&recall.Fanout{Sources: []recall.Source{&recall.SortedSetRecall{IDs: []string{"i1", "i2", "i3"}, NodeName: "hot"}}},
				&feature.EnrichNode{FeatureService: service},
				c.node,
			}}
			items, err := p.Run(t.Context(), &core.RecommendContext{UserID: "u1", Scene: "feed"}, nil)
			if err != nil {
				t.Fatal(name, c.node.Name(), err)
			}
			if doubledName := items[0].Features["user_user_age"]; (doubledName != 0) != (name == "doubled") {
				t.Fatal("EnrichNode writes other names: ", items[0].Features)
			}
			made.want(t, c.calls...)
			if len(items) != 3 || !slices.IsSortedFunc(items, func(a, b *core.Item) int { return int(math.Copysign(1, b.Score-a.Score)) }) {
				t.Error(name, c.node.Name(), idsOf(items))
			}
			for _, item := range items {
				score := c.want.Scores[slices.Index([]string{"i1", "i2", "i3"}, item.ID)]
				if math.Abs(item.Score-float64(score)) > 1e-6 {
					t.Errorf("%s, %T: %s has %v, want %v", name, c.node, item.ID, item.Score, score)
				}
			}
		}
	}
}

func TestTheRankModelAnswersForAllOrFails(t *testing.T) {
	client, made := dial(t)
	model, ctx := reckit.NewRankModel(client, 0), t.Context()
	// Two users among five pairs, in any order: one call.
	var pairs []map[string]float64
	for i := range 5 {
		pairs = append(pairs, map[string]float64{
			"user_age": float64(20 + i%2), "item_price": float64(10 + i), "scene_scene_id": 7, "cross_age_x_price": 3,
		})
	}
	answer, err := model.Service.Predict(ctx, &core.MLPredictRequest{Features: pairs, ModelVersion: "cosine"})
	if err != nil || answer.ModelVersion != "cosine" || len(answer.Predictions) != 5 {
		t.Fatal(answer, err)
	}
	made.want(t, "BatchScore")
	for i, pair := range pairs {
		alone, err := model.Service.Predict(ctx, &core.MLPredictRequest{
			Features: []map[string]float64{pair}, ModelName: "score", ModelVersion: "cosine",
		})
		if err != nil || math.Abs(alone.Predictions[0]-answer.Predictions[i]) > 1e-6 {
			t.Error(i, alone, err)
		}
	}
	bad := map[string]map[string]float64{
		"an item that is not finite":  {"user_age": 20, "item_price": math.NaN()},
		"an item of unknown names":    {"user_age": 20, "item_colour": 1},
		"an item of nothing":          {"user_age": 20},
		"a user that is not finite":   {"user_age": math.Inf(1), "item_price": 1},
		"a user of nothing":           {"item_price": 1},
		"names without their prefix":  {"age": 20, "price": 1},
		"nothing at all":              {},
		"only crosses of no interest": {"cross_age_x_price": 3},
	}
	for name, pair := range bad {
		for _, batch := range [][]map[string]float64{{pair}, {pairs[0], pair, pairs[1]}} {
			items := make([]*core.Item, len(batch))
			for i := range batch {
				items[i] = core.NewItem(fmt.Sprint(i))
				items[i].Features = batch[i]
			}
			_, err := (&rank.RPCNode{Model: model}).Process(ctx, &core.RecommendContext{}, items)
			wantCode(t, name, err, core.ErrorCodeInvalidInput)
		}
	}
	if err := model.Service.Health(ctx); err != nil {
		t.Error(err)
	}
	if err := model.Service.Close(ctx); err != nil {
		t.Error(err)
	}
}
