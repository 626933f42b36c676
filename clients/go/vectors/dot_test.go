package vectors_test

import (
	"math"
	"math/rand/v2"
	"testing"

	twotowerv1 "github.com/twotower/twotower/clients/go/gen/twotower/v1"
	"github.com/twotower/twotower/clients/go/twotower"
	"github.com/twotower/twotower/clients/go/vectors"
)

func random(seed uint64, dimension int) []float32 {
	source := rand.New(rand.NewPCG(seed, 7))
	vector := make([]float32, dimension)
	for i := range vector {
		vector[i] = float32(source.NormFloat64())
	}
	return vector
}

func TestDotOfEveryLength(t *testing.T) {
	for dimension := range 70 {
		a, b := random(1, dimension), random(2, dimension+1)
		want := 0.0
		for i := range a {
			want += float64(a[i]) * float64(b[i])
		}
		if got := vectors.Dot(a, b); math.Abs(float64(got)-want) > 1e-6*(1+math.Abs(want)) {
			t.Errorf("of %d: %v, want %v", dimension, got, want)
		}
	}
}

func TestDotOfAShorterVectorPanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("it does not")
		}
	}()
	vectors.Dot(random(1, 8), random(2, 7))
}

func TestSimilarityOfAnyVectors(t *testing.T) {
	info := &twotowerv1.ReleaseInfo{Scale: 2, Bias: -1, Similarity: twotowerv1.Similarity_SIMILARITY_COSINE}
	cosine := vectors.CalibrationOf(info)
	info.Similarity = twotowerv1.Similarity_SIMILARITY_DOT
	dot := vectors.CalibrationOf(info)
	if want := (vectors.Calibration{Scale: 2, Bias: -1}); dot != want {
		t.Errorf("%+v, want %+v", dot, want)
	}
	a, b := []float32{3, 4}, []float32{6, -8}
	if got := dot.Similarity(a, b); got != 18-32 {
		t.Error(got)
	}
	if got := cosine.Similarity(a, b); math.Abs(float64(got)+0.28) > 1e-7 {
		t.Error(got)
	}
	if got := cosine.Similarity([]float32{0, 0}, b); got != 0 {
		t.Error(got)
	}
}

func TestTopOrdersAsTheServer(t *testing.T) {
	scores := &twotower.Scores{
		Scores:       []float32{1, 0, 1, 0x1p-126, 1, 0.5},
		Similarities: []float32{40, 0, 50, -90, 50, 0},
		ItemIDs:      []string{"a", "gone", "z", "low", "b", "e"},
		Missing:      []int{1},
	}
	for k, want := range map[int][]string{0: {"b", "z", "a", "e", "low"}, 2: {"b", "z"}, 9: {"b", "z", "a", "e", "low"}} {
		got := vectors.Top(scores, k)
		if len(got) != len(want) {
			t.Fatalf("of %d: %v", k, got)
		}
		for i, item := range got {
			if item.ItemID != want[i] {
				t.Errorf("of %d: place %d is %v, want %s", k, i, item, want[i])
			}
		}
	}
	if first := vectors.Top(scores, 1)[0]; first.Score != 1 || first.Similarity != 50 {
		t.Error(first)
	}
}
