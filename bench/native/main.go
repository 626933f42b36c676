// Command native serves GetUserEmbedding by grpc-go and ONNX Runtime, one call at a time: the physical reference that
// the bench measures the service against, not a server to use. It knows numeric features alone, by their full names.
//
//	native -library libonnxruntime.so -release FOLDER
//
// It prints its address, and serves until standard input ends.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"math"
	"net"
	"os"
	"path/filepath"
	"runtime"

	onnx "github.com/yalue/onnxruntime_go"
	"google.golang.org/grpc"

	twotowerv1 "github.com/twotower/twotower/clients/go/gen/twotower/v1"
)

func main() {
	log.SetFlags(0)
	library := flag.String("library", "", "`file` of ONNX Runtime")
	release := flag.String("release", "", "`folder` of a release")
	flag.Parse()
	if err := run(*library, *release); err != nil {
		log.Fatal(err)
	}
}

func run(library, release string) error {
	tower, err := openTower(library, release)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	twotowerv1.RegisterTwoTowerServiceServer(server, &service{release: filepath.Base(release), tower: tower})
	fmt.Println(listener.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		server.Stop()
	}()
	return server.Serve(listener)
}

type service struct {
	twotowerv1.UnimplementedTwoTowerServiceServer
	release string
	tower   *tower
}

func (s *service) GetUserEmbedding(
	_ context.Context, request *twotowerv1.GetUserEmbeddingRequest,
) (*twotowerv1.GetUserEmbeddingResponse, error) {
	values, err := s.tower.embed(request.GetUser().GetFeatures())
	if err != nil {
		return nil, err
	}
	return &twotowerv1.GetUserEmbeddingResponse{
		Embedding: &twotowerv1.Embedding{Values: values, Release: s.release},
		Release:   s.release,
		Source:    twotowerv1.Source_SOURCE_COMPUTED,
	}, nil
}

// tower is a user tower of numeric features whose graph does all transforms. Safe for concurrent use.
type tower struct {
	features []string
	session  *onnx.DynamicAdvancedSession
	rows     chan row // those that no call uses
}

// row is where one call's numbers stand, of shape [1, features] and [1, dimension].
type row struct {
	numeric, embedding *onnx.Tensor[float32]
}

func openTower(library, release string) (*tower, error) {
	features, err := numericFeatures(filepath.Join(release, "schema.json"))
	if err != nil {
		return nil, err
	}
	onnx.SetSharedLibraryPath(library)
	if err := onnx.InitializeEnvironment(); err != nil {
		return nil, err
	}
	graph := filepath.Join(release, "user_tower.onnx")
	_, outputs, err := onnx.GetInputOutputInfo(graph)
	if err != nil {
		return nil, err
	}
	dimensions := outputs[0].Dimensions // [batch, dimension]
	options, err := onnx.NewSessionOptions()
	if err != nil {
		return nil, err
	}
	defer options.Destroy()
	// Calls run beside each other; threads within one would only disturb them.
	if err := errors.Join(options.SetIntraOpNumThreads(1), options.SetInterOpNumThreads(1)); err != nil {
		return nil, err
	}
	session, err := onnx.NewDynamicAdvancedSession(graph, []string{"numeric"}, []string{"embedding"}, options)
	if err != nil {
		return nil, err
	}
	// Some more than cores: a call that the kernel has put aside keeps its row.
	rows := make(chan row, 4*runtime.NumCPU())
	for range cap(rows) {
		numeric, err := onnx.NewEmptyTensor[float32](onnx.NewShape(1, int64(len(features))))
		if err != nil {
			return nil, err
		}
		embedding, err := onnx.NewEmptyTensor[float32](onnx.NewShape(1, dimensions[1]))
		if err != nil {
			return nil, err
		}
		rows <- row{numeric, embedding}
	}
	return &tower{features, session, rows}, nil
}

// numericFeatures reads the names of a user tower's features in the order of the graph's columns.
func numericFeatures(path string) ([]string, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var schema struct {
		User struct {
			Transforms string
			Features   []struct{ Name, Kind string }
		}
	}
	if err := json.Unmarshal(content, &schema); err != nil {
		return nil, err
	}
	var names []string
	for _, feature := range schema.User.Features {
		if feature.Kind != "numeric" || schema.User.Transforms != "graph" {
			return nil, fmt.Errorf("%s: the reference serves numeric features alone, transformed by the graph", feature.Name)
		}
		names = append(names, feature.Name)
	}
	return names, nil
}

// embed returns a user's vector, of length 1 as cosine wants it. A feature that is left out goes to the graph as NaN.
func (t *tower) embed(features map[string]float64) ([]float32, error) {
	row := <-t.rows
	defer func() { t.rows <- row }()
	numeric := row.numeric.GetData()
	for i, name := range t.features {
		value, ok := features[name]
		if !ok {
			value = math.NaN()
		}
		numeric[i] = float32(value)
	}
	if err := t.session.Run([]onnx.Value{row.numeric}, []onnx.Value{row.embedding}); err != nil {
		return nil, err
	}
	embedding := row.embedding.GetData()
	var squares float64
	for _, value := range embedding {
		squares += float64(value) * float64(value)
	}
	length := math.Sqrt(squares)
	values := make([]float32, len(embedding))
	for i, value := range embedding {
		values[i] = float32(float64(value) / length)
	}
	return values, nil
}
