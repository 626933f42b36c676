// Package reckit stands in for github.com/rushteam/reckit where that cannot be downloaded: the declarations that the
// adapters, their tests and the example use, with bodies written by hand that do what the real ones do as far as that
// matters to a caller. ../README.md says how the adapters are tested against the real module.
package reckit
