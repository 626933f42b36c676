package vectors

import (
	"fmt"
	"math"
)

// ValueError is a key of Redis whose value is no vector, or has another dimension than the user's: another program has
// written there, or the value was cut. `twotower items push` writes the vectors of a release again.
type ValueError struct {
	// Key of Redis, with its prefix.
	Key string
	// Problem is what the value is instead.
	Problem string
}

func (e *ValueError) Error() string {
	return fmt.Sprintf("vectors: the value of %s %s", e.Key, e.Problem)
}

// decode reads float32, little-endian. dimension: how many there must be; 0 = any number but none.
func decode(key, value string, dimension int) ([]float32, error) {
	if len(value)%4 != 0 || len(value) == 0 {
		return nil, &ValueError{key, fmt.Sprintf("is no vector: it has %d bytes", len(value))}
	}
	if dimension != 0 && len(value) != 4*dimension {
		return nil, &ValueError{key, fmt.Sprintf("has %d dimensions, not %d", len(value)/4, dimension)}
	}
	vector := make([]float32, len(value)/4)
	for i := range vector {
		four := value[4*i : 4*i+4]
		bits := uint32(four[0]) | uint32(four[1])<<8 | uint32(four[2])<<16 | uint32(four[3])<<24
		if bits&infinity == infinity {
			return nil, &ValueError{key, "has a number that is not finite"}
		}
		vector[i] = math.Float32frombits(bits)
	}
	return vector, nil
}

// infinity is the exponent that infinite numbers and NaN have.
const infinity = 0x7f800000
