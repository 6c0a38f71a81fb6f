package dart

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/encoding/korean"
)

// bounds are those of an archive, against bombs and against what would fill the memory.
type bounds struct {
	member int64 // bytes of one file, unpacked
	all    int64 // bytes of all files together
	files  int
}

// usual bounds: a real report has 4 MB, the list of companies 30.
var usual = bounds{member: 64 << 20, all: 96 << 20, files: 200}

// A BombError says that an archive is larger than any real one.
type BombError struct{ What string }

func (e *BombError) Error() string { return "archive is refused: " + e.What }

// members opens an archive and returns its files in the order of their names.
func (lim bounds) members(archive []byte) ([]*zip.File, error) {
	r, err := zip.NewReader(bytes.NewReader(archive), int64(len(archive)))
	if err != nil {
		return nil, fmt.Errorf("opening the archive: %w", err)
	}
	if len(r.File) > lim.files {
		return nil, &BombError{fmt.Sprintf("it has %d files, at most %d are read", len(r.File), lim.files)}
	}
	files := slices.Clone(r.File)
	slices.SortFunc(files, func(a, b *zip.File) int { return strings.Compare(a.Name, b.Name) })
	return files, nil
}

// read unpacks a file; what its header says of its size is not trusted.
func (lim bounds) read(f *zip.File, room int64) ([]byte, error) {
	r, err := f.Open()
	if err != nil {
		return nil, fmt.Errorf("opening %q in the archive: %w", f.Name, err)
	}
	defer r.Close()
	limit := min(lim.member, room)
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("unpacking %q: %w", f.Name, err)
	}
	if int64(len(b)) > limit {
		return nil, &BombError{fmt.Sprintf("%q has more than %d bytes", f.Name, limit)}
	}
	return b, nil
}

// Document fetches the body of a filing as text: its main file first, attachments after it, at most limit
// bytes. A [*StatusError] of status 014 says that there is none and never will be.
func (c *Client) Document(ctx context.Context, receipt string, limit int) (string, error) {
	if !isReceipt(receipt) {
		return "", fmt.Errorf("fetching a document: %q is no receipt number", receipt)
	}
	body, err := c.get(ctx, "document.xml", url.Values{"rcept_no": {receipt}}, maxZIP)
	if err != nil {
		return "", fmt.Errorf("fetching document %s: %w", receipt, err)
	}
	text, err := usual.document(body, receipt, limit)
	if err != nil {
		return "", fmt.Errorf("reading document %s: %w", receipt, err)
	}
	return text, nil
}

// document reads the archive of a filing.
func (lim bounds) document(archive []byte, receipt string, limit int) (string, error) {
	files, err := lim.members(archive)
	if err != nil {
		return "", err
	}
	main := receipt + ".xml"
	slices.SortStableFunc(files, func(a, b *zip.File) int {
		switch {
		case path.Base(a.Name) == main && path.Base(b.Name) != main:
			return -1
		case path.Base(b.Name) == main && path.Base(a.Name) != main:
			return 1
		default:
			return 0
		}
	})
	var parts []string
	room, left := lim.all, limit
	for _, f := range files {
		if left <= 0 {
			break
		}
		if ext := strings.ToLower(path.Ext(f.Name)); ext != ".xml" && ext != ".html" && ext != ".htm" && ext != ".xhtml" {
			continue
		}
		b, err := lim.read(f, room)
		if err != nil {
			return "", err
		}
		room -= int64(len(b))
		if text := Strip(Decode(b), left); text != "" {
			parts = append(parts, text)
			left -= len(text) + utf8.UTFMax // so that a cut part is the last
		}
	}
	return cut(strings.Join(parts, "\n"), limit), nil
}

// A Company is a row of the list of companies.
type Company struct {
	Code      string // DART's, 8 digits
	Name      string
	StockCode string // of listed companies, 6 characters
	Modified  string // YYYYMMDD
}

// Companies fetches the list of companies and hands the listed ones to yield, one at a time: the list has
// 117,000, of which 4,000 are listed.
func (c *Client) Companies(ctx context.Context, yield func(Company) error) error {
	body, err := c.get(ctx, "corpCode.xml", nil, maxZIP)
	if err != nil {
		return fmt.Errorf("fetching the list of companies: %w", err)
	}
	if err := usual.companies(body, yield); err != nil {
		return fmt.Errorf("reading the list of companies: %w", err)
	}
	return nil
}

// companies streams the listed companies out of the archive, so that its 30 MB are never in memory.
func (lim bounds) companies(archive []byte, yield func(Company) error) error {
	files, err := lim.members(archive)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(files, func(f *zip.File) bool { return strings.EqualFold(path.Base(f.Name), "CORPCODE.xml") })
	if i < 0 {
		return errors.New("there is no CORPCODE.xml in the archive")
	}
	r, err := files[i].Open()
	if err != nil {
		return fmt.Errorf("opening %q: %w", files[i].Name, err)
	}
	defer r.Close()
	limited := &io.LimitedReader{R: r, N: lim.member + 1}
	err = decodeCompanies(limited, yield)
	if limited.N <= 0 {
		return &BombError{fmt.Sprintf("%q has more than %d bytes", files[i].Name, lim.member)}
	}
	return err
}

func decodeCompanies(r io.Reader, yield func(Company) error) error {
	dec := xml.NewDecoder(r)
	dec.CharsetReader = func(_ string, in io.Reader) (io.Reader, error) { // of anything but UTF-8
		return korean.EUCKR.NewDecoder().Reader(in), nil
	}
	for {
		token, err := dec.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		start, ok := token.(xml.StartElement)
		if !ok || start.Name.Local != "list" {
			continue
		}
		var row struct {
			Code     string `xml:"corp_code"`
			Name     string `xml:"corp_name"`
			Stock    string `xml:"stock_code"`
			Modified string `xml:"modify_date"`
		}
		if err := dec.DecodeElement(&row, &start); err != nil {
			return err
		}
		stock := strings.TrimSpace(row.Stock) // a single blank for those that are not listed
		if stock == "" {
			continue
		}
		company := Company{strings.TrimSpace(row.Code), squeeze(row.Name), stock, strings.TrimSpace(row.Modified)}
		if err := yield(company); err != nil {
			return err
		}
	}
}
