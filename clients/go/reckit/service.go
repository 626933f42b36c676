package reckit

import (
	"context"
	"fmt"
	"slices"

	"github.com/rushteam/reckit/core"

	"github.com/twotower/twotower/clients/go/twotower"
)

// defaultVectors is some seconds of a busy pipeline, and less than 4 MB.
const defaultVectors = 16_384

// userTower is the name that a request for the user tower may give.
const userTower = "user_tower"

// Service is the user tower (core.MLService) and the vectors of the items (core.VectorService and
// core.VectorDatabaseService) in one object. It has to be one: recall.TwoTowerRecall passes the vector from Predict to
// Search without the release that made it, so the object remembers that, and a switch of releases between the two calls
// changes nothing. Any number of goroutines may share it.
//
//	service := reckit.New(client)
//	source := recall.NewTwoTowerRecall(features, service, service)
type Service struct {
	client *twotower.Client
	made   *memory
}

var (
	_ core.MLService             = (*Service)(nil)
	_ core.VectorService         = (*Service)(nil)
	_ core.VectorDatabaseService = (*Service)(nil)
)

// Option changes how New makes a service.
type Option func(*Service)

// RememberVectors sets how many of the last vectors the service knows the release of, at least; it may be twice as many.
// It has to be more than are searched for at the same time. Default: 16,384, less than 4 MB.
func RememberVectors(count int) Option {
	return func(s *Service) { s.made = newMemory(max(1, count)) }
}

// New makes a service of a client. The client stays the caller's, who closes it.
func New(client *twotower.Client, opts ...Option) *Service {
	s := &Service{client: client, made: newMemory(defaultVectors)}
	for _, set := range opts {
		set(s)
	}
	return s
}

// Predict computes the vectors of anonymous users by the user tower. Predictions are their values, one vector after
// another, and so are Outputs; ModelVersion is the release. ModelVersion of the request pins it.
//
// It is all or nothing: one user that is refused fails the call. Sequences and texts cannot be given here (a
// core.MLPredictRequest holds numbers); Recall reads them.
func (s *Service) Predict(ctx context.Context, req *core.MLPredictRequest) (*core.MLPredictResponse, error) {
	if err := checkPredict(req, userTower); err != nil {
		return nil, err
	}
	users := make([]*twotower.User, len(req.Features))
	for i, features := range req.Features {
		users[i] = &twotower.User{Features: features}
	}
	embeddings, err := s.embed(ctx, users, twotower.AtRelease(req.ModelVersion))
	if err != nil {
		return nil, err
	}
	response := &core.MLPredictResponse{ModelVersion: embeddings[0].Release}
	for _, embedding := range embeddings {
		if embedding.Release != response.ModelVersion {
			return nil, core.NewDomainError(core.ModuleService, core.ErrorCodeUnavailable,
				"twotower: the active release changed during the call: call again")
		}
		vector := doubles(embedding.Values)
		s.made.remember(vector, embedding.Release)
		response.Predictions = append(response.Predictions, vector...)
	}
	response.Outputs = response.Predictions
	return response, nil
}

// embed returns the vectors of all users, or none. One user goes out together with those of other callers.
func (s *Service) embed(
	ctx context.Context, users []*twotower.User, opts ...twotower.CallOption,
) ([]twotower.UserEmbedding, error) {
	if len(users) == 1 {
		embedding, err := s.client.EmbedUser(ctx, users[0], opts...)
		if err != nil {
			return nil, domainError(core.ModuleService, err)
		}
		return []twotower.UserEmbedding{*embedding}, nil
	}
	batch, err := s.client.EmbedUsers(ctx, users, opts...)
	if err != nil {
		return nil, domainError(core.ModuleService, err)
	}
	if err := firstError(core.ModuleService, batch.Errors); err != nil {
		return nil, err
	}
	if len(batch.Embeddings) != len(users) {
		return nil, short(core.ModuleService)
	}
	return batch.Embeddings, nil
}

// Health asks the server whether it has an active release, or the one that the client is pinned to.
func (s *Service) Health(ctx context.Context) error {
	info, err := s.client.ServingInfo(ctx)
	if err == nil && info.GetActiveRelease() == "" {
		return core.NewDomainError(core.ModuleService, core.ErrorCodeUnavailable, "twotower: the server has no active release")
	}
	return domainError(core.ModuleService, err)
}

// Close does nothing: the connections belong to the client, which others may use.
func (s *Service) Close(context.Context) error { return nil }

// activeRelease is that of the client's pin, else what is active now.
func (s *Service) activeRelease(ctx context.Context) (string, error) {
	if pinned := s.client.Release(); pinned != "" {
		return pinned, nil
	}
	view, err := s.client.Pin(ctx)
	if err != nil {
		return "", err
	}
	return view.Release(), nil
}

// checkPredict refuses what cannot be served by the named model.
func checkPredict(req *core.MLPredictRequest, model string) error {
	switch {
	case req == nil:
		return invalid(core.ModuleService, "FIELD_REQUIRED: the request is nil")
	case len(req.Instances) > 0:
		return notSupported(core.ModuleService,
			"Instances are numbers without names, which cannot be checked against the schema: set Features")
	case len(req.Features) == 0:
		return invalid(core.ModuleService, "FIELD_REQUIRED: set Features")
	case req.ModelName != "" && req.ModelName != model:
		return notFound(core.ModuleService, fmt.Sprintf("this service is the model %q, not %q", model, req.ModelName))
	}
	return nil
}

// firstError is the first entry of a batch that failed, with how many did; nil when none did.
func firstError(module string, errors twotower.EntryErrors) error {
	if len(errors) == 0 {
		return nil
	}
	indices := make([]int, 0, len(errors))
	for index := range errors {
		indices = append(indices, index)
	}
	first := errors[slices.Min(indices)]
	return core.NewDomainError(module, errorCode(first), fmt.Sprintf("%v (%d failed)", first, len(errors)))
}

func doubles(values []float32) []float64 {
	doubles := make([]float64, len(values))
	for i, value := range values {
		doubles[i] = float64(value)
	}
	return doubles
}

func floats(values []float64) []float32 {
	floats := make([]float32, len(values))
	for i, value := range values {
		floats[i] = float32(value)
	}
	return floats
}
