package reckit_test

import (
	"fmt"
	"testing"

	"github.com/rushteam/reckit/core"

	"github.com/twotower/twotower/clients/go/reckit"
)

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
