package vectors

import (
	"context"
	"fmt"
	"math"
	"sync"

	"google.golang.org/grpc/codes"

	twotowerv1 "github.com/twotower/twotower/clients/go/gen/twotower/v1"
	"github.com/twotower/twotower/clients/go/twotower"
)

// Server tells how its releases compare vectors; *twotower.Client is one.
type Server interface {
	ServingInfo(ctx context.Context) (*twotowerv1.GetServingInfoResponse, error)
}

// Scorer scores items of Redis for a user whose vector the server gave, as RPC Score would. Make one and keep it: any
// number of goroutines may share it.
type Scorer struct {
	server Server
	reader *Reader
	loaded sync.Map // name of a release → release
}

// release is what a scorer knows of one; it never changes.
type release struct {
	Calibration
	dimension int
}

// NewScorer makes a scorer of the vectors that reader reads. It asks server once for each release.
func NewScorer(server Server, reader *Reader) *Scorer { return &Scorer{server: server, reader: reader} }

// Score scores items by their vectors of the release that made the user's. The answer is what RPC Score gives, scores
// equal within 1e-6: 0 and a place in Missing for an item that Redis lacks.
func (s *Scorer) Score(ctx context.Context, user *twotower.Embedding, itemIDs []string) (*twotower.Scores, error) {
	if user == nil {
		return nil, refused(twotowerv1.ErrorReason_ERROR_REASON_FIELD_REQUIRED, "embedding", "a user's vector is needed")
	}
	of, err := s.release(ctx, user.Release)
	if err != nil {
		return nil, err
	}
	if err := of.check(user); err != nil {
		return nil, err
	}
	items, err := s.reader.Items(ctx, user.Release, of.dimension, itemIDs)
	if err != nil {
		return nil, err
	}
	vector := user.Values
	if of.Cosine {
		vector = Normalized(vector) // those of items are so
	}
	scores := &twotower.Scores{
		Scores:       make([]float32, len(items)),
		Similarities: make([]float32, len(items)),
		ItemIDs:      itemIDs,
		Release:      user.Release,
	}
	for i, item := range items {
		if item == nil {
			scores.Missing = append(scores.Missing, i)
			continue
		}
		scores.Similarities[i] = Dot(vector, item)
		scores.Scores[i] = of.Score(scores.Similarities[i])
	}
	return scores, nil
}

// Calibration returns that of a release which the server has loaded, or had when it was asked for first;
// twotower.ErrReleaseNotLoaded else.
func (s *Scorer) Calibration(ctx context.Context, release string) (Calibration, error) {
	known, err := s.release(ctx, release)
	return known.Calibration, err
}

func (s *Scorer) release(ctx context.Context, name string) (release, error) {
	if name == "" {
		return release{}, refused(twotowerv1.ErrorReason_ERROR_REASON_FIELD_REQUIRED, "embedding.release",
			"a vector comes with the release that made it")
	}
	if known, ok := s.loaded.Load(name); ok {
		return known.(release), nil
	}
	info, err := s.server.ServingInfo(ctx)
	if err != nil {
		return release{}, err
	}
	for _, loaded := range info.GetReleases() {
		s.loaded.Store(loaded.GetRelease(), release{CalibrationOf(loaded), int(loaded.GetDimension())})
	}
	if known, ok := s.loaded.Load(name); ok {
		return known.(release), nil
	}
	return release{}, &twotower.Error{
		Code:    codes.FailedPrecondition,
		Reason:  twotowerv1.ErrorReason_ERROR_REASON_RELEASE_NOT_LOADED,
		Field:   "embedding.release",
		Message: fmt.Sprintf("the server has not loaded release %q, so its calibration is not known", name),
	}
}

// check refuses what RPC Score refuses, for the same reason.
func (r release) check(user *twotower.Embedding) error {
	if len(user.Values) != r.dimension {
		return refused(twotowerv1.ErrorReason_ERROR_REASON_DIMENSION_MISMATCH, "embedding.values",
			fmt.Sprintf("the vector has %d values, release %s has %d dimensions", len(user.Values), user.Release, r.dimension))
	}
	for _, value := range user.Values {
		if math.Float32bits(value)&infinity == infinity {
			return refused(twotowerv1.ErrorReason_ERROR_REASON_VALUE_NOT_FINITE, "embedding.values",
				"the vector has a number that is not finite")
		}
	}
	return nil
}

func refused(reason twotower.Reason, field, message string) error {
	return &twotower.Error{Code: codes.InvalidArgument, Reason: reason, Field: field, Message: message}
}
