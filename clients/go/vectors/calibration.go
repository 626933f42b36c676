package vectors

import (
	"math"

	twotowerv1 "github.com/twotower/twotower/clients/go/gen/twotower/v1"
)

// smallest normal float32: exactly 0 means missing, so no score is less.
const smallest = 0x1p-126

// Calibration is how a release compares two vectors, and what score that makes.
type Calibration struct {
	// Scale and Bias: score = sigmoid(Scale · similarity + Bias). Scale > 0.
	Scale, Bias float64
	// Cosine: similarity is the cosine of two vectors, else their dot product. Vectors that leave the server or stand in
	// Redis have norm 1 then, so that Dot alone is their similarity.
	Cosine bool
}

// CalibrationOf reads the calibration of a release, as ServingInfo of the client lists it.
func CalibrationOf(info *twotowerv1.ReleaseInfo) Calibration {
	return Calibration{
		Scale:  info.GetScale(),
		Bias:   info.GetBias(),
		Cosine: info.GetSimilarity() == twotowerv1.Similarity_SIMILARITY_COSINE,
	}
}

// Similarity compares any two vectors of the release, also such as a caller has made, an average for example. With a
// zero vector it is 0. It panics when item is shorter than user.
func (c Calibration) Similarity(user, item []float32) float32 {
	if c.Cosine {
		return Dot(Normalized(user), Normalized(item))
	}
	return Dot(user, item)
}

// Score returns sigmoid(Scale · similarity + Bias), in (0, 1]. From Scale · similarity + Bias = 17 on it is 1: order by
// similarity.
func (c Calibration) Score(similarity float32) float32 {
	score := 1 / (1 + math.Exp(-c.Scale*float64(similarity)-c.Bias))
	return float32(max(score, smallest))
}
