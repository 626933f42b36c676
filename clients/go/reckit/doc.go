// Package reckit serves the interfaces of Reckit (github.com/rushteam/reckit) from a twotower server.
//
// A pipeline that is written anew takes Recall and Rank: one call each, with everything that is known about the user.
//
//	client, err := twotower.Dial(ctx, "localhost:50051")
//	...
//	p := &pipeline.Pipeline{Nodes: []pipeline.Node{
//		&recall.Fanout{Sources: []recall.Source{&reckit.Recall{Client: client}, hot}, Dedup: true},
//		&feature.EnrichNode{FeatureService: features},
//		&reckit.Rank{Client: client},
//	}}
//
// A pipeline that exists keeps its nodes, and gets Service for recall.TwoTowerRecall and recall.ANN, and NewRankModel
// for rank.RPCNode and rank.TwoTowerNode.
//
// # Errors
//
// Every error is a bare *core.DomainError, as core.IsNotFound and its siblings want: they do not unwrap. Its message
// begins with the reason of the twotower server.
//
//	NOT_FOUND       an item, or a release that is not loaded
//	UNAVAILABLE     no server answers, none is ready, it has too much to do, or the time of the call is over
//	NOT_SUPPORTED   what no twotower server does, such as creating a collection
//	INTERNAL_ERROR  a bug
//	INVALID_INPUT   all else: sending the same again cannot help
package reckit
