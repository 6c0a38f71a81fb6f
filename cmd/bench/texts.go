package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"

	"github.com/embedfleet/embedfleet/samples"
)

// makeTexts returns n distinct English texts of mixed lengths, the same ones for the same n: words of the
// samples in their order, cut to lengths drawn from a log-normal distribution like that of headlines,
// sentences and paragraphs together: median 12 words, at most 200; in tokens of a BERT median 17, mean 32.
func makeTexts(n int) ([]string, error) {
	docs, err := samples.English()
	if err != nil {
		return nil, err
	}
	var words []string
	for _, d := range docs {
		words = append(words, strings.Fields(d.Text)...)
	}
	random := rand.New(rand.NewPCG(1, 2))
	texts := make([]string, n)
	for i := range texts {
		length := int(math.Exp(math.Log(12) + 1.3*random.NormFloat64()))
		length = min(max(length, 1), 200)
		at := random.IntN(len(words) - length)
		texts[i] = fmt.Sprintf("%d %s", i, strings.Join(words[at:at+length], " "))
	}
	return texts, nil
}
