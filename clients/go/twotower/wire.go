package twotower

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"

	twotowerv1 "github.com/twotower/twotower/clients/go/gen/twotower/v1"
)

// Users, items and requests that hold them are written here by hand. A generated message with a map of 32 features takes
// some times as long to write as this (BenchmarkUser), it would have to be built first, and a batch could not be put
// together from entries that their callers have written. The numbers are those of proto/twotower/v1, and wire_test.go
// reads everything back by the generated messages.
const (
	entryID             = 1 // User and Item begin alike
	entryFeatures       = 2
	entryStringFeatures = 3
	userFeatureVersion  = 5
	entryDenseFeatures  = 6
	entryFingerprint    = 7
	userRoutingKey      = 8

	mapKey, mapValue = 1, 2
	listValues       = 1

	embeddingValues, embeddingRelease = 1, 2
)

// appendMessage writes a field that is a message with the content `written`.
func appendMessage(b []byte, field protowire.Number, written []byte) []byte {
	b = protowire.AppendTag(b, field, protowire.BytesType)
	return protowire.AppendBytes(b, written)
}

// featureBytes is about what a feature takes.
const featureBytes = 32

func appendUser(b []byte, user *User, order *denseOrder) ([]byte, error) {
	b = slices.Grow(b, featureBytes*(1+len(user.Features)+len(user.StringFeatures))+4*len(user.DenseFeatures))
	b, err := appendText(b, entryID, user.ID, "user_id")
	if err != nil {
		return nil, err
	}
	if b, err = appendText(b, userFeatureVersion, user.FeatureVersion, "feature_version"); err != nil {
		return nil, err
	}
	if b, err = appendText(b, userRoutingKey, user.RoutingKey, "routing_key"); err != nil {
		return nil, err
	}
	return appendFeatures(b, user.Features, user.StringFeatures, user.DenseFeatures, user.SchemaFingerprint, order)
}

func appendItem(b []byte, item *Item, order *denseOrder) ([]byte, error) {
	b, err := appendText(b, entryID, item.ID, "item_id")
	if err != nil {
		return nil, err
	}
	return appendFeatures(b, item.Features, item.StringFeatures, item.DenseFeatures, item.SchemaFingerprint, order)
}

func appendFeatures(
	b []byte,
	features map[string]float64,
	texts map[string][]string,
	dense []float32,
	fingerprint uint64,
	order *denseOrder,
) ([]byte, error) {
	named := features
	if order != nil && len(dense) == 0 {
		dense, named = order.split(features)
		if len(dense) > 0 {
			fingerprint = order.fingerprint
		}
	}
	for name, value := range named {
		if !utf8.ValidString(name) {
			return nil, notText(fmt.Sprintf("features[%q]", name))
		}
		size := 2 + protowire.SizeBytes(len(name)) + 8
		b = protowire.AppendTag(b, entryFeatures, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(size))
		b = protowire.AppendTag(b, mapKey, protowire.BytesType)
		b = protowire.AppendString(b, name)
		b = protowire.AppendTag(b, mapValue, protowire.Fixed64Type)
		b = protowire.AppendFixed64(b, math.Float64bits(value))
	}
	for name, values := range texts {
		if !utf8.ValidString(name) {
			return nil, notText(fmt.Sprintf("string_features[%q]", name))
		}
		list := 0
		for _, value := range values {
			if !utf8.ValidString(value) {
				return nil, notText(fmt.Sprintf("string_features[%s]", name))
			}
			list += 1 + protowire.SizeBytes(len(value))
		}
		size := 2 + protowire.SizeBytes(len(name)) + protowire.SizeBytes(list)
		b = protowire.AppendTag(b, entryStringFeatures, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(size))
		b = protowire.AppendTag(b, mapKey, protowire.BytesType)
		b = protowire.AppendString(b, name)
		b = protowire.AppendTag(b, mapValue, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(list))
		for _, value := range values {
			b = protowire.AppendTag(b, listValues, protowire.BytesType)
			b = protowire.AppendString(b, value)
		}
	}
	b = appendFloats(b, entryDenseFeatures, dense)
	if fingerprint != 0 {
		b = protowire.AppendTag(b, entryFingerprint, protowire.Fixed64Type)
		b = protowire.AppendFixed64(b, fingerprint)
	}
	return b, nil
}

func appendEmbedding(b []byte, embedding *Embedding) ([]byte, error) {
	b = appendFloats(b, embeddingValues, embedding.Values)
	return appendText(b, embeddingRelease, embedding.Release, "release")
}

func appendFloats(b []byte, field protowire.Number, values []float32) []byte {
	if len(values) == 0 {
		return b
	}
	b = protowire.AppendTag(b, field, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(4*len(values)))
	for _, value := range values {
		b = protowire.AppendFixed32(b, math.Float32bits(value))
	}
	return b
}

func appendKeys(b []byte, field protowire.Number, keys []uint64) []byte {
	if len(keys) == 0 {
		return b
	}
	b = protowire.AppendTag(b, field, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(8*len(keys)))
	for _, key := range keys {
		b = protowire.AppendFixed64(b, key)
	}
	return b
}

// appendItemKeys writes the keys of ids.
func appendItemKeys(b []byte, field protowire.Number, itemIDs []string) []byte {
	if len(itemIDs) == 0 {
		return b
	}
	b = protowire.AppendTag(b, field, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(8*len(itemIDs)))
	for _, id := range itemIDs {
		b = protowire.AppendFixed64(b, ItemKey(id))
	}
	return b
}

func appendTexts(b []byte, field protowire.Number, values []string, name string) ([]byte, error) {
	for i, value := range values {
		if !utf8.ValidString(value) {
			return nil, notText(fmt.Sprintf("%s[%d]", name, i))
		}
		b = protowire.AppendTag(b, field, protowire.BytesType)
		b = protowire.AppendString(b, value)
	}
	return b, nil
}

func appendText(b []byte, field protowire.Number, value, name string) ([]byte, error) {
	if value == "" {
		return b, nil
	}
	if !utf8.ValidString(value) {
		return nil, notText(name)
	}
	b = protowire.AppendTag(b, field, protowire.BytesType)
	return protowire.AppendString(b, value), nil
}

func appendNumber(b []byte, field protowire.Number, value uint64) []byte {
	if value == 0 {
		return b
	}
	b = protowire.AppendTag(b, field, protowire.VarintType)
	return protowire.AppendVarint(b, value)
}

func appendFlag(b []byte, field protowire.Number, value bool) []byte {
	return appendNumber(b, field, protowire.EncodeBool(value))
}

// matrixRow returns row i of a matrix as floats.
func matrixRow(matrix *twotowerv1.EmbeddingMatrix, i int) []float32 {
	width := 4 * int(matrix.GetDimension())
	row := matrix.GetValues()[i*width : (i+1)*width]
	values := make([]float32, matrix.GetDimension())
	for at := range values {
		values[at] = math.Float32frombits(binary.LittleEndian.Uint32(row[4*at:]))
	}
	return values
}

// notText is what the server would say of the whole message, without a field.
func notText(field string) *Error {
	return &Error{Code: codes.InvalidArgument, Field: field, Message: "the text is not UTF-8"}
}
