package reckit

import (
	"fmt"
	"sync"
	"testing"
)

func vector(number int) []float64 { return []float64{float64(number), 0.5} }

func TestTheReleasesOfTheLastVectorsAreKnownAndNoMore(t *testing.T) {
	made := newMemory(100)
	for number := range 1000 {
		made.remember(vector(number), "r1")
		made.remember(vector(0), "r1") // one that is in use
		if size := len(made.young) + len(made.old); size > 200 {
			t.Fatalf("%d vectors are kept", size)
		}
		for back := range 50 {
			if number >= back && made.release(vector(number-back)) != "r1" {
				t.Fatalf("vector %d of %d is forgotten", number-back, number)
			}
		}
	}
	if made.release(vector(0)) != "r1" || made.release(vector(500)) != "" || made.release(nil) != "" {
		t.Error(made.release(vector(0)), made.release(vector(500)), made.release(nil))
	}
}

func TestManyGoroutinesRememberAtOnce(t *testing.T) {
	made := newMemory(1000)
	var group sync.WaitGroup
	for first := range 8 {
		group.Go(func() {
			for number := first; number < 2000; number += 8 {
				made.remember(vector(number), fmt.Sprint(number))
				if release := made.release(vector(number)); release != fmt.Sprint(number) {
					t.Errorf("vector %d is of release %q", number, release)
				}
			}
		})
	}
	group.Wait()
}

func TestAVectorIsKnownByItsContent(t *testing.T) {
	made := newMemory(100)
	made.remember([]float64{float64(float32(0.1)), 2}, "r1")
	for _, same := range [][]float64{{float64(float32(0.1)), 2}, {0.1, 2}} { // 0.1 is the same as a float32
		if made.release(same) != "r1" {
			t.Error(same)
		}
	}
	for _, other := range [][]float64{{0.1}, {2, 0.1}, {0.1, 2, 0}, {0.1, -2}} {
		if made.release(other) != "" {
			t.Error(other)
		}
	}
	made.remember([]float64{0.1, 2}, "r2")
	if made.release([]float64{0.1, 2}) != "r2" {
		t.Error("the later release is not the one that counts")
	}
}
