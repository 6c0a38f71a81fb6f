package searchpage

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/embedfleet/embedfleet/search"
	"github.com/embedfleet/embedfleet/store"
	"github.com/embedfleet/embedfleet/vector"
)

// recentOf returns n documents around a few subjects, of as many sources, in a space.
func recentOf(n, sources int, space vector.Space) search.Recent {
	r := search.Recent{Space: space, Last: int64(n), Documents: n + 5}
	for i, v := range clusters(n, 24, 9) {
		r.Places = append(r.Places, store.Place{Vector: v, Snippet: "the text", Document: vector.Document{
			ID: fmt.Sprintf("dart:2022010390%04d", i), Title: strings.Repeat("주요사항보고서 ", 1+i%20), Source: fmt.Sprint("s", i%sources),
			PublishedAt: time.Date(2022, 1, 3, 15, 0, 0, 0, time.UTC),
		}})
	}
	return r
}

func unpack(t *testing.T, body []byte) sheet {
	t.Helper()
	var out sheet
	if err := json.Unmarshal(body, &out); err != nil {
		t.Fatalf("%v in %.200s", err, body)
	}
	return out
}

func unzip(t *testing.T, body []byte) []byte {
	t.Helper()
	zip, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(zip)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestMap follows a map through its life: being drawn, drawn, unchanged, changed, and a store that goes away.
func TestMap(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var (
			reads  int
			now    = recentOf(40, 3, "a")
			failed error
		)
		l := &library{recent: func(n int) (search.Recent, error) {
			reads++
			if n != 10_000 {
				t.Errorf("asked for %d documents", n)
			}
			return now, failed
		}}
		s := setup(t, l, nil, &Options{Zone: time.FixedZone("KST", 9*3600)})
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		defer func() {
			stop()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}()
		const address = "/search/map?model=minilm"
		if w := s.get(address); w.Code != http.StatusAccepted || !strings.Contains(w.Body.String(), "being drawn") {
			t.Errorf("at first: %d %s", w.Code, w.Body)
		}
		synctest.Wait()
		w := s.get(address)
		first := unpack(t, w.Body.Bytes())
		if w.Code != http.StatusOK || len(first.X) != 40 || len(first.Y) != 40 || len(first.Title) != 40 || first.Documents != 45 {
			t.Fatalf("%d %v", w.Code, first)
		}
		if first.Day[0] != "2022-01-04" || first.ID[7] != "dart:20220103900007" || len([]rune(first.Title[19])) > titleRunes+1 {
			t.Errorf("day %s, id %s, title %s", first.Day[0], first.ID[7], first.Title[19])
		}
		if first.Sources[0] != (source{"s0", 14}) || first.Source[1] != 1 {
			t.Errorf("sources %v, the second document's is %d", first.Sources, first.Source[1])
		}
		if !strings.Contains(s.get("/search").Body.String(), `<option value="s2">`) {
			t.Error("the form does not suggest the sources")
		}
		zipped := s.get(address, "Accept-Encoding", "gzip, br")
		if got := unpack(t, unzip(t, zipped.Body.Bytes())); len(got.X) != 40 || zipped.Header().Get("Content-Encoding") != "gzip" {
			t.Errorf("compressed: %v", got)
		}
		etag := w.Header().Get("ETag")
		if w := s.get(address, "If-None-Match", etag); w.Code != http.StatusNotModified || w.Body.Len() != 0 || etag == "" {
			t.Errorf("what the browser has: %d of %s", w.Code, etag)
		}
		if reads != 1 {
			t.Errorf("the store was read %d times", reads)
		}

		time.Sleep(time.Minute)
		if w := s.get(address); w.Header().Get("Retry-After") != "1" {
			t.Error("an old map does not say that it is looked after")
		}
		synctest.Wait()
		if w := s.get(address, "If-None-Match", etag); w.Header().Get("Retry-After") != "30" {
			t.Error("a map that was looked after still asks to be asked soon")
		}
		if w := s.get(address, "If-None-Match", etag); w.Code != http.StatusNotModified || reads != 2 {
			t.Errorf("nothing changed: %d after %d reads", w.Code, reads)
		}

		// One document more, and those that stay stay where they were.
		now = recentOf(41, 3, "a")
		time.Sleep(time.Minute)
		s.get(address)
		synctest.Wait()
		second := unpack(t, s.get(address).Body.Bytes())
		if len(second.X) != 41 {
			t.Fatalf("%d documents", len(second.X))
		}
		for i := range first.X {
			if d := math.Hypot(float64(first.X[i]-second.X[i]), float64(first.Y[i]-second.Y[i])); d > 2500 {
				t.Errorf("document %d moved by %.0f of 20,000", i, d)
			}
		}

		failed = errors.New("the fault")
		time.Sleep(time.Minute)
		s.get(address)
		synctest.Wait()
		if got := unpack(t, s.get(address).Body.Bytes()); len(got.X) != 41 {
			t.Errorf("the store is away: %v", got)
		}
	})
}

func TestMapThatCannotBeDrawn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &library{recent: func(int) (search.Recent, error) { return search.Recent{}, errors.New("password hunter2") }}
		s := setup(t, l, nil, nil)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go func() { _ = s.Run(ctx) }()
		s.get("/search/map?model=minilm")
		synctest.Wait()
		if w := s.get("/search/map?model=minilm"); w.Code != http.StatusServiceUnavailable || strings.Contains(w.Body.String(), "hunter2") {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		if w := s.get("/search/map?model=other"); w.Code != http.StatusNotFound {
			t.Errorf("another model: %d", w.Code)
		}
		stop()
		synctest.Wait()
	})
}

func TestSheetOfNothingAndOfManySources(t *testing.T) {
	t.Parallel()
	var d drawing
	s, err := d.place(search.Recent{Space: "a"}, drawing{}, time.UTC)
	if err != nil || len(s.X) != 0 {
		t.Errorf("nothing: %v, %v", s, err)
	}
	for sources, want := range map[int]int{1: 1, 7: 7, 8: 8, 12: 8} {
		s, err := d.place(recentOf(48, sources, "a"), drawing{}, time.UTC)
		if err != nil || len(s.Sources) != want {
			t.Errorf("%d sources: %v, %v", sources, s.Sources, err)
		}
		total := 0
		for _, src := range s.Sources {
			total += src.Count
		}
		if total != 48 {
			t.Errorf("%d sources: %d documents in the legend", sources, total)
		}
	}
}

// TestSizeOfTheLargestMap bounds what a browser fetches for 10,000 documents.
func TestSizeOfTheLargestMap(t *testing.T) {
	t.Parallel()
	var d drawing
	s, err := d.place(recentOf(10_000, 5, "a"), drawing{}, time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	packed, err := pack(s)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("10,000 documents: %d kB of JSON, %d kB compressed", len(plain)/1000, len(packed)/1000)
	if len(plain) > 4_000_000 || len(packed) > 600_000 {
		t.Errorf("%d bytes, %d compressed", len(plain), len(packed))
	}
}

// TestPaletteForTheColourBlind reads the map's colours and compares them as people see them who lack one kind of
// cones (matrices of Machado, Oliveira and Fernandes 2009, severity 1), and with the ground they lie on.
func TestPaletteForTheColourBlind(t *testing.T) {
	t.Parallel()
	css, err := os.ReadFile("static/search.css")
	if err != nil {
		t.Fatal(err)
	}
	light, dark, ok := strings.Cut(string(css), "@media (prefers-color-scheme: dark)")
	if !ok {
		t.Fatal("no dark scheme")
	}
	kinds := map[string][9]float64{
		"all cones":    {1, 0, 0, 0, 1, 0, 0, 0, 1},
		"protanopia":   {0.152286, 1.052583, -0.204868, 0.114503, 0.786281, 0.099216, -0.003882, -0.048116, 1.051998},
		"deuteranopia": {0.367322, 0.860646, -0.227968, 0.280085, 0.672501, 0.047413, -0.011820, 0.042940, 0.968881},
		"tritanopia":   {1.255528, -0.076749, -0.178779, -0.078411, 0.930809, 0.147602, 0.004733, 0.691367, 0.303900},
	}
	grounds := map[string][3]float64{"light": rgb(t, "f5f6f8"), "dark": rgb(t, "0f1216")}
	for scheme, part := range map[string]string{"light": light, "dark": dark} {
		var colours [][3]float64
		for _, m := range regexp.MustCompile(`--m[1-7]: #([0-9a-f]{6})`).FindAllStringSubmatch(part, 7) {
			colours = append(colours, rgb(t, m[1]))
		}
		if len(colours) != ownColours {
			t.Fatalf("%s: %d colours", scheme, len(colours))
		}
		for i, c := range colours {
			a, b := luminance(c), luminance(grounds[scheme])
			if contrast := (max(a, b) + 0.05) / (min(a, b) + 0.05); contrast < 3 {
				t.Errorf("%s: colour %d has a contrast of %.1f to its ground", scheme, i+1, contrast)
			}
		}
		for kind, matrix := range kinds {
			for i := range colours {
				for j := range i {
					// Four sources are the usual case, and theirs lie furthest apart; all have shapes besides.
					least := 9.0
					if i < 4 {
						least = 16
					}
					if d := distance(lab(seenAs(matrix, colours[i])), lab(seenAs(matrix, colours[j]))); d < least {
						t.Errorf("%s, %s: colours %d and %d are %.1f apart, want %.0f", scheme, kind, j+1, i+1, d, least)
					}
				}
			}
		}
	}
}

// rgb returns linear values of a colour.
func rgb(t *testing.T, hex string) (out [3]float64) {
	for i := range out {
		n, err := strconv.ParseUint(hex[2*i:2*i+2], 16, 8)
		if err != nil {
			t.Fatal(err)
		}
		v := float64(n) / 255
		if v <= 0.04045 {
			out[i] = v / 12.92
		} else {
			out[i] = math.Pow((v+0.055)/1.055, 2.4)
		}
	}
	return out
}

func luminance(c [3]float64) float64 { return 0.2126*c[0] + 0.7152*c[1] + 0.0722*c[2] }

func seenAs(m [9]float64, c [3]float64) (out [3]float64) {
	for i := range out {
		out[i] = min(1, max(0, m[3*i]*c[0]+m[3*i+1]*c[1]+m[3*i+2]*c[2]))
	}
	return out
}

// lab is CIE L*a*b* under D65.
func lab(c [3]float64) [3]float64 {
	f := func(v float64) float64 {
		if v > 216.0/24389 {
			return math.Cbrt(v)
		}
		return (24389.0/27*v + 16) / 116
	}
	x := f((0.4124*c[0] + 0.3576*c[1] + 0.1805*c[2]) / 0.9505)
	y := f(luminance(c))
	z := f((0.0193*c[0] + 0.1192*c[1] + 0.9505*c[2]) / 1.089)
	return [3]float64{116*y - 16, 500 * (x - y), 200 * (y - z)}
}

func distance(a, b [3]float64) float64 {
	return math.Sqrt((a[0]-b[0])*(a[0]-b[0]) + (a[1]-b[1])*(a[1]-b[1]) + (a[2]-b[2])*(a[2]-b[2]))
}
