package gateway_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"

	"github.com/embedfleet/embedfleet/gateway"
)

// TestStrict: what is not understood is refused by field and place, and one document takes no other with it.
func TestStrict(t *testing.T) {
	t.Parallel()
	cp949, err := os.ReadFile("testdata/cp949-documents.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		request, body string
		status        int
		want          string
	}{
		{"POST /v1/documents", string(cp949), 400, `documents[0].text: not UTF-8 at byte 33`},
		{"POST /v1/documents", "{\"documents\":[{\"id\":\"a\xff\",\"text\":\"t\"},{\"id\":\"b\",\"text\":\"t\"}]}", 200, `"accepted":1,"refused":1,"receipts":[{"index":0,"id":"a�","state":"refused","error":"documents[0].id: not UTF-8 at byte 22`},
		{"POST /v1/documents", `{"documents":[{"id":"a","text":"\ud800"},{"id":"b","text":"t"}]}`, 200, `half of a surrogate pair`},
		{"POST /v1/documents", `{"documents":[{"id":"a","text":"😀"}]}`, 200, `"accepted":1`},
		{"POST /v1/documents", `{"documents":[{"id":"a","text":"t","text":"u"},{"id":"b","text":"t"}]}`, 200, `documents[0].text: the name is there twice`},
		{"POST /v1/documents", `{"documents":[{"ID":"a","text":"t"},{"id":"b","text":"t"}]}`, 200, `documents[0].ID is no field`},
		{"POST /v1/documents", `{"documents":[{"id":5,"text":"t"},7,null,{"id":"b","text":"t","fields":{"a":1}},{"id":"c","text":"t"}]}`, 200, `"accepted":1,"refused":4,"receipts":[{"index":0,"id":"","state":"refused","error":"documents[0].id is a number, want a text"},{"index":1`},
		{"POST /v1/documents", `{"documents":[{"id":"a","text":"t","published_at":"yesterday"},{"id":"b","text":"t"}]}`, 200, `want a time as`},
		{"POST /v1/documents", `{"documents":[{"id":".","text":"t"},{"id":"b","text":"t"}]}`, 200, `id is \".\"`},
		{"POST /v1/documents", `{"documents":[{"id":"..","text":"t"}]}`, 400, `"code":"invalid_id"`},
		{"POST /v1/documents", `{"documents":[{"id":"a","text":"t"}],"Lane":"live"}`, 400, `there is no field \"Lane\", but \"lane\"`},
		{"POST /v1/documents", `{"documents":[{"id":"a","text":"t"}],"documents":[]}`, 400, `"code":"duplicate_field"`},
		{"POST /v1/documents", `{"documents":[{"id":"a","text":"t"}],"wait":-1}`, 400, `"param":"wait"`},
		{"POST /v1/documents", `{"documents":[{"id":"a","text":"t"}],"wait":5}`, 200, `"state":"done"`},
		{"POST /v1/documents", `{"documents":[{"id":"a","text":"t"}],"wait":5,"lane":"backfill"}`, 200, `"state":"enqueued"`},
		{"POST /v1/documents?lane=backfill", `{"documents":[{"id":"a","text":"t"}]}`, 400, `"code":"unknown_parameter"`},
		{"POST /v1/documents", `[]`, 400, "it is a list, want an object"},
		{"POST /v1/documents", ``, 400, "reading the body"},
		{"POST /v1/embeddings", "{\"input\":\"\xc4\xe3\"}", 400, `"input: not UTF-8 at byte 10 of the body","type":"invalid_request_error","param":"input"`},
		{"POST /v1/embeddings", `{"input":["a","\udc00"]}`, 400, `input[1]: half of a surrogate pair`},
		{"POST /v1/embeddings", "{\"in\xffput\":\"a\"}", 400, `not UTF-8`},
		{"POST /v1/embeddings", `{"input":"a","input":"b"}`, 400, `duplicate_field`},
		{"POST /v1/embeddings", `{"Input":"a"}`, 400, `names have a case`},
		{"POST /v1/embeddings", `{"input":"a","task":"retrieval.query"}`, 400, `"param":"task","code":"unknown_field"`},
		{"POST /v1/embeddings", `{"input":"a","user":null,"dimensions":null,"encoding_format":null}`, 200, `"embedding":[1,0.5]`},
		{"POST /v1/embeddings", `{"input":"a","dimensions":"2"}`, 400, `dimensions is a text, want a whole number`},
		{"POST /v1/embeddings", `{"input":"a","dimensions":1}`, 200, `"embedding":[1]`}, // of unit length again
		{"POST /v1/embeddings", `{"input":"prompted"}`, 200, `"embedding":[15,0.5]`},
		{"POST /v1/embeddings", `{"input":"prompted","input_type":"document"}`, 200, `"embedding":[17,0.5]`},
		{"POST /v1/embeddings", `{"input":"prompted","prompt_name":"none"}`, 200, `"embedding":[8,0.5]`},
		{"POST /v1/embeddings", `{"input":"prompted","input_type":"classification"}`, 400, `"param":"input_type"`},
		{"POST /v1/embeddings", `{"input":"prompted","input_type":"query","prompt_name":"query"}`, 400, `mean the same`},
		{"POST /v1/embeddings", `{"input":"long"}`, 400, `model m reads at most 3 tokens, input[0] has 5 tokens`},
		{"POST /v1/embeddings", `{"input":"long","truncate":true}`, 200, `"embedding":[4,0.5]`},
		{"POST /v1/embeddings", `{"input":[200000]}`, 400, `"code":"bad_token_ids"`},
		{"POST /v1/embeddings", `{"input":[13225, 199000]}`, 200, `"embedding":[`}, // of o200k_base
		{"POST /v1/embeddings", `{"input":["a",[1]]}`, 400, `input[1] is a list`},
		{"POST /v1/embeddings", `{"input":[1,"a"]}`, 400, `no id, at place 1`},
		{"POST /v1/embeddings", `{"input":[1.5]}`, 400, `no id, at place 0`},
		{"POST /v1/embeddings", `{"input":[[]]}`, 400, `has no character`},
		{"POST /embeddings", `{"input":"prompted"}`, 200, `"embedding":[8,0.5]`},
		{"POST /embed", `{"inputs":"prompted"}`, 200, `[[8,0.5]]`},
		{"POST /", `{"inputs":"prompted","prompt_name":"query"}`, 200, `[[15,0.5]]`},
		{"POST /embed", `{"inputs":"a","truncation_direction":"left"}`, 400, `"error_type":"Validation"`},
		{"POST /embed", `{"inputs":"a","truncation_direction":"Right","dimensions":1,"prompt_name":null}`, 200, `[[1]]`},
		{"POST /embed?model=n", `{"inputs":"a"}`, 200, `[[1,0.5]]`},
		{"GET /info", "", 200, `"model_id":"m"`},
		{"GET /v1/models/n", "", 200, `"id":"n"`},
		{"GET /v1/models/o", "", 404, `"code":"model_not_found"`},
		{"POST /v2/embed", `{"model":"m","texts":["prompted"],"input_type":"search_document","embedding_types":["float"]}`, 200, `"embeddings":{"float":[[17,0.5]]}`},
		{"POST /v1/embed", `{"model":"m","texts":["long","b"]}`, 200, `"embeddings":[[4,0.5],[1,0.5]],"texts":["long","b"]`},
		{"POST /v2/embed", `{"model":"m","texts":["long"],"truncate":"NONE"}`, 400, `context_length_exceeded`},
		{"POST /v2/embed", `{"model":"m","texts":["a"],"embedding_types":["int8"]}`, 400, `embedding_types`},
		{"POST /v2/embed", `{"model":"m","texts":["a"],"output_dimension":0}`, 400, `output_dimension is 0`},
		{"GET /v1/search?q=a&model=m&fliter=x", "", 400, `"param":"fliter","code":"unknown_parameter"`},
		{"GET /v1/search?q=a&q=b&model=m", "", 400, `is there 2 times`},
		{"GET /v1/search?q=%FF&model=m", "", 400, `not UTF-8`},
		{"GET /v1/search?q=misspelt&model=m", "", 400, `"code":"bad_filter"`},
		{"GET /v1/search?q=a&model=m&sort=date", "", 400, `"param":"sort"`},
		{"GET /v1/search?q=a&model=m&sort=newest&k=2", "", 200, `"chunk":1000`},
		{"GET /v1/search?q=a&model=m&k=2&offset=3", "", 200, `"hits":[]`},
		{"GET /v1/search?q=a&model=m&k=999&offset=3", "", 400, `both together`},
		{"GET /v1/search?q=a&model=m&zone=Mars", "", 400, `no time zone`},
		{"POST /v1/search", `{"text":"a","model":"m","zone":"UTC","filter":["published_at>=2022-01-03"]}`, 200, `"hits":[]`},
		{"POST /v1/search", `{"text":"a","model":"m","filter":["source!=news"]}`, 200, `"hits":[]`},
		{"GET /v1/search?q=a", "", 400, `"code":"model_required"`},
		{"GET /v1/similar/" + url.PathEscape("https://x//y") + "?model=m", "", 200, `"title":"https://x//y"`},
		{"GET /v1/documents?model=m&limit=7&offset=2&sort=newest&filter=source=news", "", 200, `{"total":1,"offset":2,"space":"s","documents":[{"id":"newest2+7"`},
		{"GET /v1/documents?model=m&filter=source%3Edart", "", 400, "compares numbers"},
		{"GET /v1/documents/https://example.com//a%3Fb=c?model=m", "", 200, `"id":"https://example.com//a?b=c"`},
		{"GET /v1/documents/..?model=m", "", 404, "not_found"},
		{"DELETE /v1/documents/dart:1/2?model=m", "", 200, `{"deleted":true,"id":"dart:1/2","object":"document"}`},
		{"DELETE /v1/documents/other?model=m", "", 200, `"deleted":false`},
		{"PATCH /v1/documents/dart:1/2?model=m", `{"title":"new","fields":{"a":"1"},"published_at":null}`, 200, `"title":"new","fields":{"a":"1"}}`},
		{"PATCH /v1/documents/dart:1/2?model=m", `{"text":"new"}`, 400, "unknown_field"},
		{"PATCH /v1/documents/dart:1/2?model=m", `{"title":5}`, 400, "title is a number"},
		{"PATCH /v1/documents/dart:1/2?model=m", `{"title":"raced"}`, 409, "conflict"},
		{"PATCH /v1/documents/other?model=m", `{"title":"new"}`, 404, "not_found"},
		{"GET /v1/tasks/x?model=m&wait=3", "", 200, `{"id":"x","state":"done"}`},
		{"GET /v1/tasks/x?model=m&wait=999", "", 400, `"param":"wait"`},
		{"GET /v1/usage", "", 404, "counts nothing"},
		{"GET /docs", "", 200, "<!doctype html>"},
		{"GET /health", "", 200, ""},
		{"GET /v1/models?x=1", "", 400, "unknown_parameter"},
	} {
		t.Run(tt.request+" "+tt.body[:min(40, len(tt.body))], func(t *testing.T) {
			t.Parallel()
			method, target, _ := strings.Cut(tt.request, " ")
			h := with(nil, "n")
			if !strings.Contains(target, "model") && !strings.Contains(tt.body, `"model"`) && method == "POST" {
				h = handler()
			}
			w := ask(t, h, method, target, tt.body)
			if w.Code != tt.status || !strings.Contains(w.Body.String(), units(tt.want)) || w.Header().Get("X-Request-ID") == "" {
				t.Errorf("%d %s, want %d with %s", w.Code, w.Body, tt.status, tt.want)
			}
		})
	}
}

// TestSettingsOfAModel: what a model's settings say where a request does not.
func TestSettingsOfAModel(t *testing.T) {
	t.Parallel()
	h := with(nil, "n")
	for body, want := range map[string]string{
		`{"model":"n","input":"long"}`:                          `"embedding":[13,0.5]`, // cut, and as a document
		`{"model":"n","input":"long","truncate":false}`:         `"embedding":[13,0.5]`, // "passage: long" is not too long here
		`{"model":"n","input":"prompted","input_type":"query"}`: `"embedding":[15,0.5]`,
		`{"model":"n","input":[9906]}`:                          `token_ids_not_supported`,
		`{"input":"a"}`:                                         `model is missing, want one of \"m\", \"n\"`,
		`{"model":"o","input":"a"}`:                             `not served here, but \"m\", \"n\"`,
	} {
		if w := ask(t, h, http.MethodPost, "/v1/embeddings", body); !strings.Contains(w.Body.String(), units(want)) {
			t.Errorf("%s: %s, want %s", body, w.Body, want)
		}
	}
}

// TestOtherSites: without tokens, pages of other sites are kept out, by name and by origin; with tokens they need one.
func TestOtherSites(t *testing.T) {
	t.Parallel()
	tokens, err := gateway.ReadTokens(strings.NewReader("0123456789abcdef"))
	if err != nil {
		t.Fatal(err)
	}
	open := with(nil)
	named := with(&gateway.Options{Hosts: []string{"gw.example"}, Origins: []string{"https://app.example"}})
	closed := with(&gateway.Options{Tokens: tokens})
	type headers map[string]string
	for _, tt := range []struct {
		name   string
		h      http.Handler
		method string
		set    headers
		want   int
	}{
		{"a program", open, "POST", nil, 200},
		{"a program by name", open, "POST", headers{"Host": "gateway:8090"}, 200},
		{"an address", open, "POST", headers{"Host": "[::1]:8090"}, 200},
		{"localhost", open, "POST", headers{"Host": "localhost"}, 200},
		{"rebinding", open, "POST", headers{"Host": "evil.example"}, 403},
		{"rebinding, reading", open, "GET", headers{"Host": "evil.example:8090"}, 403},
		{"rebinding, with a dot", open, "GET", headers{"Host": "evil.example.:8090"}, 403},
		{"no host", open, "GET", headers{"Host": ""}, 403},
		{"a form", open, "POST", headers{"Content-Type": "application/x-www-form-urlencoded"}, 415},
		{"plain text", open, "POST", headers{"Content-Type": "text/plain"}, 415},
		{"no type", open, "POST", headers{"Content-Type": ""}, 415},
		{"json with a charset", open, "POST", headers{"Content-Type": "application/json; charset=utf-8"}, 200},
		{"another origin", open, "POST", headers{"Origin": "https://evil.example"}, 403},
		{"null", open, "POST", headers{"Origin": "null"}, 403},
		{"another origin, reading", open, "GET", headers{"Origin": "https://evil.example"}, 403},
		{"its own", open, "POST", headers{"Origin": "http://127.0.0.1:8090", "Sec-Fetch-Site": "same-origin"}, 200},
		{"cross-site", open, "GET", headers{"Sec-Fetch-Site": "cross-site"}, 403},
		{"same-site", open, "POST", headers{"Sec-Fetch-Site": "same-site"}, 403},
		{"typed by a person", open, "GET", headers{"Sec-Fetch-Site": "none"}, 200},
		{"a name that was allowed", named, "POST", headers{"Host": "gw.example"}, 200},
		{"an origin that was allowed", named, "POST", headers{"Origin": "https://app.example", "Sec-Fetch-Site": "cross-site"}, 200},
		{"another", named, "POST", headers{"Origin": "https://app.example.evil"}, 403},
		{"a token", closed, "POST", headers{"Authorization": "Bearer 0123456789abcdef", "Host": "evil.example", "Content-Type": "text/plain"}, 200},
		{"none", closed, "POST", nil, 401},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			target, body := "/v1/models", ""
			if tt.method == http.MethodPost {
				target, body = "/v1/embeddings", `{"input":"a"}`
			}
			r := httptest.NewRequestWithContext(t.Context(), tt.method, target, strings.NewReader(body))
			r.Host = "127.0.0.1:8090"
			r.Header.Set("Content-Type", "application/json")
			for name, value := range tt.set {
				r.Header.Set(name, value)
				if name == "Host" {
					r.Host = value
				}
			}
			w := httptest.NewRecorder()
			tt.h.ServeHTTP(w, r)
			if w.Code != tt.want {
				t.Errorf("%d %s, want %d", w.Code, w.Body, tt.want)
			}
		})
	}
	r := httptest.NewRequestWithContext(t.Context(), http.MethodOptions, "/v1/embeddings", http.NoBody)
	r.Header.Set("Origin", "https://app.example")
	r.Header.Set("Access-Control-Request-Method", "POST")
	r.Header.Set("Access-Control-Request-Headers", "authorization,content-type")
	w := httptest.NewRecorder()
	named.ServeHTTP(w, r)
	if w.Code != 204 || w.Header().Get("Access-Control-Allow-Origin") != "https://app.example" || w.Header().Get("Access-Control-Allow-Headers") != "authorization,content-type" {
		t.Errorf("preflight: %d %v", w.Code, w.Header())
	}
	if _, err := gateway.New(nil, gateway.Parts{}, &gateway.Options{Origins: []string{"app.example"}}); err == nil {
		t.Error("an origin without a scheme was taken")
	}
}

// TestCompression: bodies and answers may be gzip, bounded as they are without.
func TestCompression(t *testing.T) {
	t.Parallel()
	squeeze := func(s string) string {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		_, _ = io.WriteString(w, s)
		_ = w.Close()
		return b.String()
	}
	many := `{"input":["` + strings.Repeat(`a","`, 999) + `a"]}`
	for _, tt := range []struct {
		encoding, body string
		status         int
	}{
		{"gzip", squeeze(many), 200},
		{"gzip", squeeze(`{"input":"`) + strings.Repeat(squeeze(strings.Repeat("a", 1<<20)), 65) + squeeze(`"}`), 413},
		{"gzip", many, 400},
		{"gzip", squeeze(many)[:40], 400},
		{"br", many, 415},
	} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/embeddings", strings.NewReader(tt.body))
		r.Host = "localhost"
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Content-Encoding", tt.encoding)
		r.Header.Set("Accept-Encoding", "deflate, gzip;q=0.5")
		w := httptest.NewRecorder()
		handler().ServeHTTP(w, r)
		if w.Code != tt.status {
			t.Errorf("%s of %d bytes: %d %.300s, want %d", tt.encoding, len(tt.body), w.Code, w.Body, tt.status)
		}
		if tt.status != 200 {
			continue
		}
		zip, err := gzip.NewReader(w.Body)
		if err != nil || w.Header().Get("Content-Encoding") != "gzip" {
			t.Fatal(err, w.Header())
		}
		var a struct{ Data []any }
		if err := json.NewDecoder(zip).Decode(&a); err != nil || len(a.Data) != 1000 {
			t.Error(len(a.Data), err)
		}
	}
}

// TestExport: as lines, and as a Parquet file that a library reads.
func TestExport(t *testing.T) {
	t.Parallel()
	w := ask(t, handler(), http.MethodGet, "/v1/export?vectors=true", "")
	if got := strings.Count(w.Body.String(), "\n"); w.Code != 200 || got != 2 || !strings.Contains(w.Body.String(), `"vector":[1]`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	w = ask(t, handler(), http.MethodGet, "/v1/export?filter=source=news", "")
	if got := strings.Count(w.Body.String(), "\n"); got != 1 || strings.Contains(w.Body.String(), `"vector"`) {
		t.Errorf("%s", w.Body)
	}
	w = ask(t, handler(), http.MethodGet, "/v1/export?format=parquet&vectors=true", "")
	type row struct {
		ID     string `parquet:"id"`
		Chunks []struct {
			Vector []float32 `parquet:"vector,list"`
		} `parquet:"chunks,list"`
	}
	rows, err := parquet.Read[row](bytes.NewReader(w.Body.Bytes()), int64(w.Body.Len()))
	if err != nil || len(rows) != 2 || rows[0].ID != "dart:1/2" || len(rows[0].Chunks) != 1 || rows[0].Chunks[0].Vector[0] != 1 {
		t.Errorf("%+v, %v", rows, err)
	}
}

// TestTokensHaveNamesAndQuotas: what stands behind a token in its file.
func TestTokensHaveNamesAndQuotas(t *testing.T) {
	t.Parallel()
	list, err := gateway.ReadTokens(strings.NewReader("0123456789abcdef name=search requests/minute=600 tokens/day=1000\nanother-token-of-mine\n"))
	if err != nil || list[0].Name != "search" || list[0].Quota.Minute.Requests != 600 || list[0].Quota.Day.Tokens != 1000 || list[1].Name == "" {
		t.Errorf("%+v, %v", list, err)
	}
	for _, bad := range []string{
		"0123456789abcdef secondword", "0123456789abcdef name=", "0123456789abcdef requests/hour=1", "0123456789abcdef calls/day=1",
		"0123456789abcdef requests/day=0", "0123456789abcdef\n0123456789abcdef", "0123456789abcdef name=a\nanother-token-of-mine name=a",
	} {
		if _, err := gateway.ReadTokens(strings.NewReader(bad)); err == nil || strings.Contains(err.Error(), "0123") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
