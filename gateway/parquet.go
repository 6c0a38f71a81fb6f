package gateway

import (
	"bufio"
	"context"
	"time"

	"github.com/parquet-go/parquet-go"

	"github.com/embedfleet/embedfleet/vector"
)

// A parquetRow is one document in a Parquet file; the vector's column is a list of float32 per chunk.
type parquetRow struct {
	ID          string            `parquet:"id"`
	Text        string            `parquet:"text,zstd"`
	Title       string            `parquet:"title,optional"`
	Source      string            `parquet:"source,optional,dict"`
	URL         string            `parquet:"url,optional"`
	PublishedAt *time.Time        `parquet:"published_at,optional,timestamp(microsecond)"`
	StockCodes  []string          `parquet:"stock_codes,list"`
	Fields      map[string]string `parquet:"fields"`
	Space       string            `parquet:"space,dict"`
	Version     int64             `parquet:"version"`
	Chunks      []parquetChunk    `parquet:"chunks,list"`
}

type parquetChunk struct {
	Start  int64     `parquet:"start"`
	End    int64     `parquet:"end"`
	Tokens int64     `parquet:"tokens"`
	Vector []float32 `parquet:"vector,list"`
}

// rowGroup is how many bytes of texts and vectors one row group has at most: what is in memory at once.
const rowGroup = 16 << 20

// writeParquet writes the documents of e as one Parquet file, row group by row group.
func writeParquet(ctx context.Context, w *bufio.Writer, e *exported) error {
	file := parquet.NewGenericWriter[parquetRow](w)
	held := 0
	err := e.each(ctx, func(rec vector.Record) error {
		row, size := e.row(rec)
		if held += size; held > rowGroup {
			held = size
			if err := file.Flush(); err != nil {
				return err
			}
		}
		_, err := file.Write([]parquetRow{row})
		return err
	})
	if err != nil {
		return err
	}
	return file.Close()
}

// row returns the row of a document, and about how many bytes it has.
func (e *exported) row(rec vector.Record) (parquetRow, int) {
	d := rec.Document
	row := parquetRow{
		ID: d.ID, Text: d.Text, Title: d.Title, Source: d.Source, URL: d.URL, StockCodes: d.StockCodes, Fields: d.Fields,
		Space: string(rec.Space), Version: rec.Version,
	}
	if !d.PublishedAt.IsZero() {
		row.PublishedAt = &d.PublishedAt
	}
	size := len(d.Text) + 512
	for _, c := range rec.Chunks {
		chunk := parquetChunk{Start: int64(c.Start), End: int64(c.End), Tokens: int64(c.Tokens)}
		if e.vectors {
			chunk.Vector = c.Vector
			size += 4 * len(c.Vector)
		}
		row.Chunks = append(row.Chunks, chunk)
	}
	return row, size
}
