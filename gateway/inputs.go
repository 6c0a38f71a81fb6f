package gateway

import (
	"fmt"
	"net/http"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/embedfleet/embedfleet/gateway/tokenids"
	"github.com/embedfleet/embedfleet/tasks"
)

// maxInputs is how many texts one request may have, as OpenAI's.
const maxInputs = 2048

// inputs are a text or a list of them, or of the token ids of one or several. Ids are kept until it is known which model
// is asked, for the model's settings name their vocabulary.
type inputs struct {
	texts []string
	ids   [][]uint32 // instead of texts
	bytes int64      // of all texts, or what their ids take
}

// field reads inputs from a field.
func (in *inputs) field(name string, r *reading) error {
	switch r.PeekKind() {
	case '"':
		return in.text(name, r)
	case '[':
	default:
		var v jsontext.Value
		if err := r.value(name, &v); err != nil {
			return err
		}
		return wrongParam(name, "bad_request", "%s is %s, want a text or a list of texts", name, describeKind(v.Kind()))
	}
	if _, err := r.ReadToken(); err != nil {
		return broken(err)
	}
	if r.PeekKind() == '0' {
		ids, err := readIDs(name, r)
		in.ids = [][]uint32{ids}
		in.bytes = int64(4 * len(ids))
		return err
	}
	for i := 0; r.PeekKind() != ']'; i++ {
		if i == maxInputs {
			return wrongParam(name, "too_many", "%s has more than %d texts, the most that one request may have", name, maxInputs)
		}
		if err := in.element(fmt.Sprintf("%s[%d]", name, i), name, r); err != nil {
			return err
		}
	}
	_, err := r.ReadToken()
	return broken(err)
}

// element reads one of several texts, or its ids.
func (in *inputs) element(place, name string, r *reading) error {
	r.src.mark()
	switch kind := r.PeekKind(); {
	case kind == '"' && in.ids == nil:
		return in.text(place, r)
	case kind == '[' && in.texts == nil:
		if _, err := r.ReadToken(); err != nil {
			return broken(err)
		}
		ids, err := readIDs(place, r)
		in.ids = append(in.ids, ids)
		in.bytes += int64(4 * len(ids))
		return err
	default:
		var v jsontext.Value
		if err := r.value(place, &v); err != nil {
			return err
		}
		return wrongParam(name, "bad_request", "%s is %s, want a text, or a list of token ids if all are", place, describeKind(v.Kind()))
	}
}

func (in *inputs) text(place string, r *reading) error {
	var s string
	if err := r.value(place, &s); err != nil {
		return err
	}
	in.texts = append(in.texts, s)
	in.bytes += int64(len(s))
	return nil
}

// readIDs reads ids up to the end of their list, whose beginning has been read.
func readIDs(name string, r *reading) (ids []uint32, err error) {
	for r.PeekKind() != ']' {
		r.src.mark()
		token, err := r.ReadToken()
		if err != nil {
			return nil, broken(err)
		}
		id, err := strconv.ParseUint(token.String(), 10, 32)
		if err != nil || token.Kind() != '0' {
			return nil, wrongParam(name, "bad_request", "%s has something among its token ids that is no id, at place %d", name, len(ids))
		}
		if len(ids) == tasks.MaxText/4 {
			return nil, wrongParam(name, "too_many", "%s has more than %d token ids", name, tasks.MaxText/4)
		}
		ids = append(ids, uint32(id))
	}
	_, err = r.ReadToken()
	return ids, broken(err)
}

// decoded returns the texts of a request to m, those of ids decoded.
func (in *inputs) decoded(name string, m *Model) ([]string, error) {
	if n := max(len(in.texts), len(in.ids)); n == 0 {
		return nil, wrongParam(name, "bad_request", "%s has 0 texts, want 1 to %d", name, maxInputs)
	}
	if in.ids == nil {
		return in.texts, nil
	}
	vocabulary, err := in.vocabulary(name, m)
	if err != nil {
		return nil, err
	}
	in.texts, in.bytes = make([]string, len(in.ids)), 0
	for i, ids := range in.ids {
		if in.texts[i], err = tokenids.Text(vocabulary, ids, tasks.MaxText); err != nil {
			return nil, wrongParam(name, "bad_token_ids", "%s: the token ids of text %d: %v", name, i, err)
		}
		if in.bytes += int64(len(in.texts[i])); in.bytes > maxBatch {
			return nil, &requestError{status: http.StatusRequestEntityTooLarge, code: "too_large", param: name, message: fmt.Sprintf("the texts of these token ids are larger than %d bytes", maxBatch)}
		}
	}
	in.ids = nil
	return in.texts, nil
}

// vocabulary is the one that the model's settings name. By default it is cl100k_base, which clients of OpenAI's embeddings
// count with; an id that only o200k_base has proves that all of the request's are of that one.
func (in *inputs) vocabulary(name string, m *Model) (string, error) {
	switch m.TokenIDs {
	case "":
	case RefuseIDs:
		return "", wrongParam(name, "token_ids_not_supported", "%s has token ids, which model %s does not take: send the texts themselves", name, m.Alias)
	default:
		return m.TokenIDs, nil
	}
	size, err := tokenids.Size(tokenids.CL100K)
	if err != nil {
		return "", err
	}
	for _, ids := range in.ids {
		for _, id := range ids {
			if int(id) >= size {
				return tokenids.O200K, nil
			}
		}
	}
	return tokenids.CL100K, nil
}
