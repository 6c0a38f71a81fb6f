package checkpoint

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/embedfleet/embedfleet/internal/testkit"
)

// TestTorchFiles reads real files of torch.save, in each of its forms.
func TestTorchFiles(t *testing.T) {
	t.Parallel()
	for folder, want := range map[string]struct {
		files, tensors int
		word           string
		shape          []int
		dtype          DType
	}{
		"bert-bin":              {1, 44, "bert.embeddings.word_embeddings.weight", []int{1200, 64}, F32},
		"bert-bin-legacy":       {1, 39, "embeddings.word_embeddings.weight", []int{1000, 72}, F32},
		"roberta-bin-fp16":      {1, 39, "embeddings.word_embeddings.weight", []int{1001, 64}, F16},
		"xlmr-bin-sharded-bf16": {3, 39, "embeddings.word_embeddings.weight", []int{1504, 64}, BF16},
	} {
		s, err := Find(testkit.Shared(t, "data", "models-tiny2", folder))
		if err != nil {
			t.Error(err)
			continue
		}
		w := s.Tensors[want.word]
		if len(s.Files) != want.files || len(s.Tensors) != want.tensors || !slices.Equal(w.Shape, want.shape) || w.DType != want.dtype {
			t.Errorf("%s: %d files, %d tensors, words %+v", folder, len(s.Files), len(s.Tensors), w)
		}
		r := s.NewReader()
		for _, tensor := range s.Tensors {
			if tensor.DType == "I64" {
				continue
			}
			if err := r.Read(make([]float32, tensor.Len()), tensor, 0); err != nil {
				t.Error(err)
			}
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}

// The opcodes that the tests write.
func text(s string) string {
	return "X" + string(binary.LittleEndian.AppendUint32(nil, uint32(len(s)))) + s
}
func number(n int32) string {
	return "J" + string(binary.LittleEndian.AppendUint32(nil, uint32(n)))
}
func tuple(items ...string) string { return "(" + strings.Join(items, "") + "t" }
func name(module, name string) string {
	return "c" + module + "\n" + name + "\n"
}

// stored is a storage's persistent id, called is "torch.FloatStorage" and the like.
func stored(called, key string, numel int32) string {
	return tuple(text("storage"), name("torch", called), text(key), text("cpu"), number(numel)) + "Q"
}

// tensor is a tensor of a storage.
func tensor(of string, offset int32, shape, stride string) string {
	return name("torch._utils", "_rebuild_tensor_v2") + tuple(of, number(offset), shape, stride, "\x89", name("collections", "OrderedDict")+")R") + "R"
}

func dictOf(pairs ...string) string { return "\x80\x02}(" + strings.Join(pairs, "") + "u." }

// archive is a file of the new form with these entries, alternately names and contents.
func archive(t testing.TB, method uint16, entries ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for i := 0; i < len(entries); i += 2 {
		w, err := z.CreateHeader(&zip.FileHeader{Name: "m/" + entries[i], Method: method})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(entries[i+1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// legacy is a file of the old form with one storage.
func legacy(system, object, keys string, storages ...byte) []byte {
	return slices.Concat([]byte(legacyMagic), []byte("\x80\x02M\xe9\x03."), []byte(system), []byte(object), []byte(keys), storages)
}

const systemPickle = "\x80\x02}X\x0d\x00\x00\x00little_endian\x88s."

// sixFloats are 0 to 5.
func sixFloats() string {
	var b []byte
	for i := range 6 {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(float32(i)))
	}
	return string(b)
}

func header(b []byte) (map[string]Tensor, error) {
	return TorchHeader(bytes.NewReader(b), int64(len(b)), "pytorch_model.bin")
}

// views is an object with a whole storage, a part of it, its transposed view and the same under a second name.
func views() string {
	of := stored("FloatStorage", "0", 6)
	return dictOf(
		text("whole"), tensor(of, 0, tuple(number(2), number(3)), tuple(number(3), number(1))),
		text("tied"), tensor(of, 0, tuple(number(6)), tuple(number(1))),
		text("part"), tensor(of, 4, tuple(number(2)), tuple(number(1))),
		text("turned"), tensor(of, 0, tuple(number(3), number(2)), tuple(number(1), number(3))),
		text("one"), tensor(of, 5, ")", ")"),
	)
}

// TestTorchViews reads views of one storage in both forms.
func TestTorchViews(t *testing.T) {
	t.Parallel()
	for form, b := range map[string][]byte{
		"archive": archive(t, zip.Store, "data.pkl", views(), "byteorder", "little", "version", "3", "data/0", sixFloats()),
		"legacy":  legacy(systemPickle, views(), "\x80\x02]"+text("0")+"a.", append([]byte{6, 0, 0, 0, 0, 0, 0, 0}, sixFloats()...)...),
	} {
		tensors, err := header(b)
		if err != nil {
			t.Fatal(form, err)
		}
		for name, want := range map[string][]float32{
			"whole": {0, 1, 2, 3, 4, 5}, "tied": {0, 1, 2, 3, 4, 5}, "part": {4, 5}, "turned": {0, 3, 1, 4, 2, 5}, "one": {5},
		} {
			got := make([]float32, tensors[name].Len())
			if err := tensors[name].Read(got, bytes.NewReader(b), 0); err != nil || !slices.Equal(got, want) {
				t.Errorf("%s: %s is %v, %v, want %v", form, name, got, err, want)
			}
		}
		last := make([]float32, 1)
		if err := tensors["turned"].Read(last, bytes.NewReader(b), 3); err != nil || last[0] != 4 {
			t.Errorf("%s: element 3 of the turned view is %v, %v", form, last, err)
		}
	}
}

// TestTorchRefuses breaks one thing at a time, above all what a pickle could do if it were run.
func TestTorchRefuses(t *testing.T) {
	t.Parallel()
	of := stored("FloatStorage", "0", 6)
	row := func(of string, offset, n, step int32) string {
		return dictOf(text("a"), tensor(of, offset, tuple(number(n)), tuple(number(step))))
	}
	for want, object := range map[string]string{
		`names "os.system"`:                    "\x80\x02" + name("os", "system") + tuple(text("true")) + "R.",
		`names "builtins.eval"`:                "\x80\x04" + text("builtins") + text("eval") + "\x93.",
		"opcode 0x69":                          "\x80\x02(i__builtin__\nexec\n.",
		"opcode 0x81":                          "\x80\x02" + name("collections", "OrderedDict") + ")\x81.",
		"opcode 0x82":                          "\x80\x02\x82\x01.",
		"with 1 arguments":                     "\x80\x02" + name("collections", "OrderedDict") + tuple("]") + "R.",
		`calls "torch.FloatStorage"`:           "\x80\x02" + name("torch", "FloatStorage") + ")R.",
		"protocol 9":                           "\x80\x09.",
		"takes a value where there is none":    "\x80\x02R.",
		"recalls entry 7":                      "\x80\x02h\x07.",
		"the pickle is cut short":              "\x80\x02}",
		"claims so":                            "\x80\x02X\xff\xff\xff\xff.",
		"without their keys":                   "\x80\x02}(Nu.",
		"sets attributes":                      "\x80\x02]}b.",
		"holds no dictionary":                  "\x80\x02].",
		`entry "step" is no tensor`:            dictOf(text("step"), number(3)),
		"is in the file twice":                 dictOf(text("a"), tensor(of, 0, tuple(number(6)), tuple(number(1))), text("a"), tensor(of, 0, tuple(number(6)), tuple(number(1)))),
		`storage "9" is not in the file`:       row(stored("FloatStorage", "9", 6), 0, 6, 1),
		"its storage should have 28 bytes":     row(stored("FloatStorage", "0", 7), 0, 6, 1),
		"ends at element 6 of a storage of 6":  row(of, 1, 6, 1),
		"ends at element 10 of a storage of 6": row(of, 0, 6, 2),
		"no place in its storage":              row(of, -1, 1, 1),
		"dimension or stride -6":               row(of, 0, -6, 1),
		"of what is no storage":                row(text("0"), 0, 6, 1),
		"without type, key or size":            row(stored("FloatStorage", "0", -6), 0, 6, 1),
		`"torch.nn.parameter.Parameter"`:       "\x80\x02" + name("torch.nn.parameter", "Parameter") + ".",
		"of shape [6] with strides []":         dictOf(text("a"), tensor(of, 0, tuple(number(6)), ")")),
		"impossible shape":                     dictOf(text("a"), tensor(of, 0, tuple(number(1<<30), number(1<<30), number(1<<30)), tuple("K\x00", "K\x00", "K\x00"))),
		"outside of it that is no storage":     "\x80\x02" + text("0") + "Q.",
		"at most 8 numbers":                    dictOf(text("a"), tensor(of, 0, text("6"), ")")),
	} {
		b := archive(t, zip.Store, "data.pkl", object, "data/0", sixFloats())
		if _, err := header(b); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("error %v, want one line with %q", err, want)
		}
	}
	for want, b := range map[string][]byte{
		"neither of torch's two forms":                       []byte("hello, this is no checkpoint"),
		"neither of torch's":                                 nil,
		"reading the archive":                                []byte("PK\x03\x04 and nothing else that makes a ZIP"),
		"is compressed":                                      archive(t, zip.Deflate, "data.pkl", views(), "data/0", sixFloats()),
		`byteorder is "big"`:                                 archive(t, zip.Store, "byteorder", "big", "data.pkl", views()),
		"has no NAME/data.pkl":                               archive(t, zip.Store, "data/0", sixFloats()),
		"data.pkl twice":                                     archive(t, zip.Store, "data.pkl", views(), "data.pkl", views()),
		`"m/data/0" twice`:                                   archive(t, zip.Store, "data/0", "", "data/0", ""),
		"another order of bytes":                             legacy("\x80\x02}.", views(), "\x80\x02]."),
		"does not list its storages":                         legacy(systemPickle, views(), "\x80\x02}."),
		`storage "1" belongs to no tensor`:                   legacy(systemPickle, views(), "\x80\x02]"+text("1")+"a."),
		"the file is cut short":                              legacy(systemPickle, views(), "\x80\x02]"+text("0")+"a.", 6, 0),
		"has 7 elements, the pickle says 6":                  legacy(systemPickle, views(), "\x80\x02]"+text("0")+"a.", 7, 0, 0, 0, 0, 0, 0, 0),
		"wants 24 bytes":                                     legacy(systemPickle, views(), "\x80\x02]"+text("0")+"a.", 6, 0, 0, 0, 0, 0, 0, 0, 1),
		`tensor "whole": its storage "0" is not in the file`: legacy(systemPickle, views(), "\x80\x02]."),
	} {
		if _, err := header(b); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("error %v, want one line with %q", err, want)
		}
	}
}

// FuzzTorch demands of any bytes that what is accepted can be read.
func FuzzTorch(f *testing.F) {
	f.Add(archive(f, zip.Store, "data.pkl", views(), "data/0", sixFloats()))
	f.Add(legacy(systemPickle, views(), "\x80\x02]"+text("0")+"a.", append([]byte{6, 0, 0, 0, 0, 0, 0, 0}, sixFloats()...)...))
	f.Fuzz(func(t *testing.T, b []byte) { readAll(t, b) })
}

// FuzzPickle puts any pickle into an archive that is right.
func FuzzPickle(f *testing.F) {
	f.Add([]byte(views()))
	f.Add([]byte("\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00}\x94\x8c\x01a\x94]\x94s."))
	f.Fuzz(func(t *testing.T, pickle []byte) {
		readAll(t, archive(t, zip.Store, "data.pkl", string(pickle), "data/0", sixFloats()))
	})
}

func readAll(t *testing.T, b []byte) {
	t.Helper()
	tensors, err := header(b)
	if err != nil {
		if strings.Contains(err.Error(), "\n") {
			t.Errorf("an error of several lines: %q", err)
		}
		return
	}
	for name, tensor := range tensors {
		if _, _, err := converter(tensor.DType); err != nil || tensor.Len() > 1<<20 {
			continue // a view may show a number any number of times
		}
		if err := tensor.Read(make([]float32, tensor.Len()), bytes.NewReader(b), 0); err != nil {
			t.Error(fmt.Errorf("%s: accepted, but %w", name, err))
		}
	}
}
