package twotower

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	twotowerv1 "github.com/twotower/twotower/clients/go/gen/twotower/v1"
)

// received is a call as the server saw it.
type received struct {
	method   string
	request  proto.Message
	metadata metadata.MD
	peer     string
	deadline time.Duration // 0 = none
}

// scripted is a real server whose answers a test writes itself.
type scripted struct {
	target string
	answer func(ctx context.Context, request proto.Message) (proto.Message, error)

	mu    sync.Mutex
	calls []received
}

func (s *scripted) received() []received {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]received(nil), s.calls...)
}

// methods are the names of the calls, in the order of their arrival.
func (s *scripted) methods() []string {
	var names []string
	for _, call := range s.received() {
		names = append(names, call.method)
	}
	return names
}

func (s *scripted) handle(
	ctx context.Context, request any, info *grpc.UnaryServerInfo, _ grpc.UnaryHandler,
) (any, error) {
	call := received{method: info.FullMethod, request: request.(proto.Message)}
	call.metadata, _ = metadata.FromIncomingContext(ctx)
	if from, ok := peer.FromContext(ctx); ok {
		call.peer = from.Addr.String()
	}
	if deadline, ok := ctx.Deadline(); ok {
		call.deadline = time.Until(deadline)
	}
	s.mu.Lock()
	s.calls = append(s.calls, call)
	s.mu.Unlock()
	return s.answer(ctx, call.request)
}

func serve(
	t testing.TB, answer func(context.Context, proto.Message) (proto.Message, error), opts ...grpc.ServerOption,
) *scripted {
	t.Helper()
	script := &scripted{answer: answer}
	server := grpc.NewServer(append(opts, grpc.UnaryInterceptor(script.handle))...)
	twotowerv1.RegisterTwoTowerServiceServer(server, twotowerv1.UnimplementedTwoTowerServiceServer{})
	twotowerv1.RegisterCatalogServiceServer(server, twotowerv1.UnimplementedCatalogServiceServer{})
	twotowerv1.RegisterReleaseServiceServer(server, twotowerv1.UnimplementedReleaseServiceServer{})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	script.target = listener.Addr().String()
	return script
}

// sequence gives one answer after the other; the last one stays. An answer is a message or an error.
func sequence(answers ...any) func(context.Context, proto.Message) (proto.Message, error) {
	var mu sync.Mutex
	return func(context.Context, proto.Message) (proto.Message, error) {
		mu.Lock()
		defer mu.Unlock()
		answer := answers[0]
		if len(answers) > 1 {
			answers = answers[1:]
		}
		if err, ok := answer.(error); ok {
			return nil, err
		}
		return answer.(proto.Message), nil
	}
}

// refusal is how the server refuses: the reason first in the message, ErrorInfo in the details.
func refusal(code codes.Code, reason Reason, more ...protoadapt.MessageV1) error {
	name := reasonName(reason)
	info := &errdetails.ErrorInfo{Reason: name, Domain: errorDomain, Metadata: map[string]string{"field": "user"}}
	detailed, err := status.New(code, name+": no").WithDetails(append([]protoadapt.MessageV1{info}, more...)...)
	if err != nil {
		panic(err)
	}
	return detailed.Err()
}

func retryAfter(wait time.Duration) protoadapt.MessageV1 {
	return &errdetails.RetryInfo{RetryDelay: durationpb.New(wait)}
}

// dial makes a client with the patience of a test; options come last and win.
func dial(t testing.TB, target string, opts ...Option) *Client {
	t.Helper()
	client, err := Dial(t.Context(), target, append([]Option{WithTimeout(time.Minute)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// fast is a policy without waits.
var fast = WithRetry(Retry{InitialBackoff: 1, MaxBackoff: 1})
