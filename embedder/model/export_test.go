package model

import (
	"encoding/json"

	"github.com/embedfleet/embedfleet/embedder/model/internal/checkpoint"
)

// A Wish is a tensor that a config.json wants.
type Wish struct {
	Name  string
	Shape []int
}

// Wishes lists the tensors that a config.json wants, in the order in which they are looked for.
func Wishes(configJSON []byte) (list []Wish, err error) {
	var c config
	if err := json.Unmarshal(configJSON, &c); err != nil {
		return nil, err
	}
	n, err := c.network()
	if err != nil {
		return nil, err
	}
	seen := make(map[string]bool)
	f := newFinder(&checkpoint.Set{}, n, familyOf(n.Type).names)
	f.find = func(name string, shape []int) (checkpoint.Tensor, bool) {
		if !seen[name] {
			list = append(list, Wish{name, shape})
		}
		seen[name] = true
		return checkpoint.Tensor{Name: name, Shape: shape, DType: checkpoint.F32}, true
	}
	f.weights()
	return list, f.err
}
