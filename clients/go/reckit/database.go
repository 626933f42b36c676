package reckit

import (
	"context"
	"fmt"
	"slices"

	"github.com/rushteam/reckit/core"

	"github.com/twotower/twotower/clients/go/twotower"
)

const (
	// A call for changes is kept well under the 4 MiB of gRPC.
	changeBytes = 1 << 20
	changeCount = 1000
)

// Insert puts ready vectors into the catalog, each for one release alone: the one that Collection names, or the active
// one ("items", "item_embeddings", ""). Metadata are the attributes: all that an item has afterwards. Send items by
// their features instead (twotower.Client.UpsertItems) and every release computes its own vector.
//
// An error says that at least one item was not inserted; others may have been. Inserting again is safe.
func (s *Service) Insert(ctx context.Context, req *core.VectorInsertRequest) error {
	if req == nil || len(req.IDs) == 0 {
		return invalid(core.ModuleVector, "FIELD_REQUIRED: set IDs and Vectors")
	}
	if len(req.Vectors) != len(req.IDs) || len(req.Metadata) != 0 && len(req.Metadata) != len(req.IDs) {
		return invalid(core.ModuleVector, fmt.Sprintf("FIELD_CONFLICT: %d IDs, but %d Vectors and %d Metadata",
			len(req.IDs), len(req.Vectors), len(req.Metadata)))
	}
	release, err := s.releaseOf(ctx, req.Collection)
	if err != nil {
		return err
	}
	changes := make([]*twotower.ItemChange, len(req.IDs))
	for i, id := range req.IDs {
		changes[i] = &twotower.ItemChange{
			Item:      &twotower.Item{ID: id},
			Embedding: &twotower.Embedding{Values: floats(req.Vectors[i]), Release: release},
		}
		if len(req.Metadata) > 0 {
			changes[i].Attributes = attributesOf(req.Metadata[i])
		}
	}
	size := changeBytes / (4*len(req.Vectors[0]) + 512)
	for chunk := range slices.Chunk(changes, max(1, min(size, changeCount))) {
		result, err := s.client.UpsertItems(ctx, chunk)
		if err != nil {
			return domainError(core.ModuleVector, err)
		}
		if err := firstError(core.ModuleVector, result.Errors); err != nil {
			return err
		}
	}
	return nil
}

// Update is Insert of one item, which need not exist.
func (s *Service) Update(ctx context.Context, req *core.VectorUpdateRequest) error {
	if req == nil {
		return invalid(core.ModuleVector, "FIELD_REQUIRED: the request is nil")
	}
	insert := &core.VectorInsertRequest{Collection: req.Collection, IDs: []string{req.ID}, Vectors: [][]float64{req.Vector}}
	if req.Metadata != nil {
		insert.Metadata = []map[string]interface{}{req.Metadata}
	}
	return s.Insert(ctx, insert)
}

// Delete takes items out of the catalog, for every release; that is why Collection cannot name one (NOT_SUPPORTED). Ids
// that the catalog lacks do not fail the call.
func (s *Service) Delete(ctx context.Context, req *core.VectorDeleteRequest) error {
	if req == nil || len(req.IDs) == 0 {
		return invalid(core.ModuleVector, "FIELD_REQUIRED: set IDs")
	}
	if !slices.Contains(aliases, req.Collection) {
		if err := s.mustHave(ctx, req.Collection); err != nil {
			return err
		}
		return notSupported(core.ModuleVector,
			`an item is deleted from every release, never from one alone: name the collection "items"`)
	}
	for chunk := range slices.Chunk(req.IDs, changeCount) {
		if _, err := s.client.DeleteItems(ctx, chunk); err != nil {
			return domainError(core.ModuleVector, err)
		}
	}
	return nil
}

// CreateCollection is NOT_SUPPORTED: releases are built.
func (s *Service) CreateCollection(context.Context, *core.VectorCreateCollectionRequest) error {
	return notSupported(core.ModuleVector, "a collection is a release: build it by `twotower release build`")
}

// DropCollection is NOT_SUPPORTED: releases are retired by the server.
func (s *Service) DropCollection(context.Context, string) error {
	return notSupported(core.ModuleVector, "a collection is a release, which the server retires itself")
}

// HasCollection says whether the name is that of a loaded release, or stands for the active one.
func (s *Service) HasCollection(ctx context.Context, collection string) (bool, error) {
	info, err := s.client.ServingInfo(ctx)
	if err != nil {
		return false, domainError(core.ModuleVector, err)
	}
	if slices.Contains(aliases, collection) {
		return info.GetActiveRelease() != "", nil
	}
	for _, release := range info.GetReleases() {
		if release.GetRelease() == collection {
			return true, nil
		}
	}
	return false, nil
}

// attributesOf has the numbers of other types as float64; what no attribute can be is left for the client to refuse.
func attributesOf(metadata map[string]interface{}) map[string]any {
	attributes := make(map[string]any, len(metadata))
	for name, value := range metadata {
		switch value.(type) {
		case int64, int32:
			number, _ := numberOf(value)
			attributes[name] = number
		default:
			attributes[name] = value
		}
	}
	return attributes
}
