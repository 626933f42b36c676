package vectors

import "math"

// Dot returns the dot product of two vectors of one dimension, summed in float64. It panics when b is shorter than a.
func Dot(a, b []float32) float32 {
	b = b[:len(a)]
	// Four sums do not wait for each other.
	var sum0, sum1, sum2, sum3 float64
	for len(a) >= 4 {
		x, y := (*[4]float32)(a), (*[4]float32)(b)
		sum0 += float64(x[0]) * float64(y[0])
		sum1 += float64(x[1]) * float64(y[1])
		sum2 += float64(x[2]) * float64(y[2])
		sum3 += float64(x[3]) * float64(y[3])
		a, b = a[4:], b[4:]
	}
	for i, x := range a {
		sum0 += float64(x) * float64(b[i])
	}
	return float32(sum0 + sum1 + sum2 + sum3)
}

// Normalized returns the vector with norm 1; a zero vector stays what it is.
func Normalized(vector []float32) []float32 {
	norm := norm(vector)
	if norm == 0 {
		norm = 1
	}
	unit := make([]float32, len(vector))
	for i, x := range vector {
		unit[i] = float32(float64(x) / norm)
	}
	return unit
}

func norm(vector []float32) float64 {
	squares := 0.0
	for _, x := range vector {
		squares += float64(x) * float64(x)
	}
	return math.Sqrt(squares)
}
