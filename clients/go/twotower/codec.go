package twotower

import (
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// encoded is a request that is written already.
type encoded []byte

// codec sends encoded requests as they are, and everything else as gRPC does.
type codec struct {
	encoding.CodecV2
}

func newCodec() codec { return codec{encoding.GetCodecV2(proto.Name)} }

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if request, ok := v.(encoded); ok {
		return mem.BufferSlice{mem.SliceBuffer(request)}, nil
	}
	return c.CodecV2.Marshal(v)
}
