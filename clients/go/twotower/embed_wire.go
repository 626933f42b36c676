package twotower

import (
	"context"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	twotowerv1 "github.com/twotower/twotower/clients/go/gen/twotower/v1"
)

// Numbers of the fields of requests for embeddings.
const (
	userRequestUser, userRequestRelease, userRequestCacheMode, usersRequestEncoding = 1, 2, 3, 4

	itemRequestItem, itemRequestRelease                                            = 2, 3
	itemsRequestKeys, itemsRequestItems, itemsRequestRelease, itemsRequestEncoding = 2, 3, 4, 5
)

// sendUser makes one GetUserEmbedding.
func (c *core) sendUser(ctx context.Context, user encoded, o callOptions) (*UserEmbedding, error) {
	request := appendMessage(make([]byte, 0, len(user)+len(o.release)+16), userRequestUser, user)
	request, err := appendText(request, userRequestRelease, o.release, "release")
	if err != nil {
		return nil, err
	}
	request = appendNumber(request, userRequestCacheMode, uint64(o.cacheMode))
	response := &twotowerv1.GetUserEmbeddingResponse{}
	method := twotowerv1.TwoTowerService_GetUserEmbedding_FullMethodName
	if err := c.once(ctx, method, encoded(request), response); err != nil {
		return nil, err
	}
	return &UserEmbedding{
		Embedding:  embeddingOf(response.GetEmbedding()),
		Source:     response.GetSource(),
		Age:        milliseconds(response.GetAgeMs()),
		FeatureUse: response.GetFeatureUse(),
	}, nil
}

// sendUsers makes one BatchGetUserEmbeddings.
func (c *core) sendUsers(ctx context.Context, users []encoded, o callOptions) (*UserEmbeddings, error) {
	size := len(o.release) + 16
	for _, user := range users {
		size += len(user) + 6
	}
	request := make([]byte, 0, size)
	for _, user := range users {
		request = appendMessage(request, userRequestUser, user)
	}
	request, err := appendText(request, userRequestRelease, o.release, "release")
	if err != nil {
		return nil, err
	}
	request = appendNumber(request, userRequestCacheMode, uint64(o.cacheMode))
	request = appendNumber(request, usersRequestEncoding, uint64(twotowerv1.EmbeddingEncoding_EMBEDDING_ENCODING_MATRIX))
	response := &twotowerv1.BatchGetUserEmbeddingsResponse{}
	method := twotowerv1.TwoTowerService_BatchGetUserEmbeddings_FullMethodName
	if err := c.once(ctx, method, encoded(request), response); err != nil {
		return nil, err
	}
	return userEmbeddingsOf(response, len(users))
}

func userEmbeddingsOf(response *twotowerv1.BatchGetUserEmbeddingsResponse, count int) (*UserEmbeddings, error) {
	vectors, err := vectorsOf(response.GetMatrix(), response.GetEmbeddings(), count)
	if err != nil {
		return nil, err
	}
	found := &UserEmbeddings{make([]UserEmbedding, count), entryErrors(response.GetProblems())}
	releases, indices := response.GetReleases(), response.GetReleaseIndices()
	sources, ages := response.GetSources(), response.GetAgesMs()
	for i := range found.Embeddings {
		if found.Errors[i] != nil {
			continue
		}
		one := &found.Embeddings[i]
		one.Values = vectors[i]
		if at := valueAt(indices, i); int(at) < len(releases) {
			one.Release = releases[at]
		}
		one.Source, one.Age = valueAt(sources, i), milliseconds(valueAt(ages, i))
	}
	return found, nil
}

// sendItems makes one BatchGetItemEmbeddings.
func (c *core) sendItems(ctx context.Context, request itemsBatch) (*ItemEmbeddings, error) {
	response := &twotowerv1.BatchGetItemEmbeddingsResponse{}
	method := twotowerv1.TwoTowerService_BatchGetItemEmbeddings_FullMethodName
	if err := c.once(ctx, method, request.written, response); err != nil {
		return nil, err
	}
	vectors, err := vectorsOf(response.GetMatrix(), response.GetEmbeddings(), request.count)
	if err != nil {
		return nil, err
	}
	found := &ItemEmbeddings{
		Vectors: vectors,
		Release: response.GetRelease(),
		Missing: positions(response.GetMissingIndices()),
		Errors:  entryErrors(response.GetProblems()),
	}
	for _, i := range found.Missing {
		found.Vectors[i] = nil
	}
	for i := range found.Errors {
		found.Vectors[i] = nil
	}
	return found, nil
}

// itemsBatch is a BatchGetItemEmbeddingsRequest and the number of its entries.
type itemsBatch struct {
	written encoded
	count   int
}

// newItemsBatch finishes a request that holds its entries already.
func newItemsBatch(entries []byte, count int, release string) (itemsBatch, error) {
	request, err := appendText(entries, itemsRequestRelease, release, "release")
	if err != nil {
		return itemsBatch{}, err
	}
	encoding := uint64(twotowerv1.EmbeddingEncoding_EMBEDDING_ENCODING_MATRIX)
	return itemsBatch{appendNumber(request, itemsRequestEncoding, encoding), count}, nil
}

func appendItems(b []byte, field protowire.Number, items []*Item, order *denseOrder) ([]byte, error) {
	for i, item := range items {
		if item == nil {
			return nil, required(entryField("items", i))
		}
		written, err := appendItem(nil, item, order)
		if err != nil {
			return nil, within(err, entryField("items", i))
		}
		b = appendMessage(b, field, written)
	}
	return b, nil
}

// vectorsOf returns the vectors of a batch of `count` entries in whichever encoding the server chose.
func vectorsOf(
	matrix *twotowerv1.EmbeddingMatrix, embeddings []*twotowerv1.Embedding, count int,
) ([][]float32, error) {
	vectors := make([][]float32, count)
	switch {
	case matrix != nil && int(matrix.GetRows()) == count && len(matrix.GetValues()) == 4*count*int(matrix.GetDimension()):
		for i := range vectors {
			vectors[i] = matrixRow(matrix, i)
		}
	case matrix == nil && len(embeddings) == count:
		for i, embedding := range embeddings {
			vectors[i] = embedding.GetValues()
		}
	default:
		return nil, unreadable("the answer has not one vector for each entry")
	}
	return vectors, nil
}

func embeddingOf(embedding *twotowerv1.Embedding) Embedding {
	return Embedding{embedding.GetValues(), embedding.GetRelease()}
}

func milliseconds(age uint64) time.Duration { return time.Duration(age) * time.Millisecond }

// valueAt is value i, or the zero of a list that the server left out whole.
func valueAt[T any](values []T, i int) T {
	if i < len(values) {
		return values[i]
	}
	var zero T
	return zero
}

func positions(indices []uint32) []int {
	if len(indices) == 0 {
		return nil
	}
	found := make([]int, len(indices))
	for i, index := range indices {
		found[i] = int(index)
	}
	return found
}
