package twotower

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"

	twotowerv1 "github.com/twotower/twotower/clients/go/gen/twotower/v1"
)

// catalogTimeout is that of calls without a deadline: every release computes the vectors of every change.
const catalogTimeout = 10 * time.Second

// ItemChange is an item that is added or replaced.
type ItemChange struct {
	// Item by its features, for every release; send them by name. With Embedding only its ID is used.
	Item *Item
	// Embedding is a ready vector instead of features, for its release alone.
	Embedding *Embedding
	// Attributes are all that the item has afterwards: a string, float64, bool or []string each.
	Attributes map[string]any
	// Sequence orders the changes of one item: one that is older than the last applied is ignored. 0 = none, the change
	// always applies.
	Sequence uint64
}

// UpsertResult is the outcome of UpsertItems.
type UpsertResult struct {
	// LogPosition of the server's log, up to which everything is durable.
	LogPosition uint64
	// Errors holds the changes that failed; the others were made.
	Errors EntryErrors
}

// DeleteResult is the outcome of DeleteItems.
type DeleteResult struct {
	// LogPosition of the server's log, up to which everything is durable.
	LogPosition uint64
	// Missing holds the positions of the ids that the catalog lacked, ascending.
	Missing []int
}

// UpsertItems adds items to the catalog or replaces them. When it returns the changes are on the server's disk, and
// every later call sees them. A change that fails leaves the others.
func (c *Client) UpsertItems(ctx context.Context, changes []*ItemChange) (*UpsertResult, error) {
	ctx, cancel := c.deadline(ctx, catalogTimeout)
	defer cancel()
	var written []byte
	for i, change := range changes {
		if change == nil {
			return nil, required(entryField("changes", i))
		}
		one, err := change.append(nil)
		if err != nil {
			return nil, within(err, entryField("changes", i))
		}
		written = appendMessage(written, upsertChanges, one)
	}
	response := &twotowerv1.UpsertItemsResponse{}
	method := twotowerv1.CatalogService_UpsertItems_FullMethodName
	if err := c.call(ctx, method, encoded(written), response); err != nil {
		return nil, err
	}
	return &UpsertResult{response.GetLogPosition(), entryErrors(response.GetProblems())}, nil
}

// DeleteItems takes items out of the catalog. Ids that it lacks do not fail the call.
func (c *Client) DeleteItems(ctx context.Context, itemIDs []string) (*DeleteResult, error) {
	ctx, cancel := c.deadline(ctx, catalogTimeout)
	defer cancel()
	written, err := appendTexts(nil, deleteItemIDs, itemIDs, "item_ids")
	if err != nil {
		return nil, err
	}
	response := &twotowerv1.DeleteItemsResponse{}
	method := twotowerv1.CatalogService_DeleteItems_FullMethodName
	if err := c.call(ctx, method, encoded(written), response); err != nil {
		return nil, err
	}
	return &DeleteResult{response.GetLogPosition(), positions(response.GetMissingIndices())}, nil
}

// Numbers of the fields of the catalog's messages.
const (
	changeItem, changeEmbedding  = 1, 2
	upsertChanges, deleteItemIDs = 1, 1
)

func (c *ItemChange) append(b []byte) ([]byte, error) {
	attributes, err := attributeMessages(c.Attributes)
	if err != nil {
		return nil, err
	}
	// What is not features is written by the generated message.
	rest, err := marshal(&twotowerv1.ItemChange{Attributes: attributes, Sequence: c.Sequence})
	if err != nil {
		return nil, err
	}
	b = append(b, rest...)
	if c.Item != nil {
		item, err := appendItem(nil, c.Item, nil)
		if err != nil {
			return nil, within(err, "item")
		}
		b = appendMessage(b, changeItem, item)
	}
	if c.Embedding != nil {
		embedding, err := appendEmbedding(nil, c.Embedding)
		if err != nil {
			return nil, within(err, "embedding")
		}
		b = appendMessage(b, changeEmbedding, embedding)
	}
	return b, nil
}

func attributeMessages(attributes map[string]any) (map[string]*twotowerv1.AttributeValue, error) {
	if len(attributes) == 0 {
		return nil, nil
	}
	messages := make(map[string]*twotowerv1.AttributeValue, len(attributes))
	for name, value := range attributes {
		message := attributeMessage(value)
		if message == nil {
			return nil, &Error{
				Code:    codes.InvalidArgument,
				Reason:  twotowerv1.ErrorReason_ERROR_REASON_FEATURE_TYPE,
				Field:   fmt.Sprintf("attributes[%s]", name),
				Message: fmt.Sprintf("an attribute is a string, a number, a bool or a []string, not a %T", value),
			}
		}
		messages[name] = message
	}
	return messages, nil
}

// attributeMessage is nil for a value that no attribute can have.
func attributeMessage(value any) *twotowerv1.AttributeValue {
	switch value := value.(type) {
	case string:
		return &twotowerv1.AttributeValue{Kind: &twotowerv1.AttributeValue_Text{Text: value}}
	case bool:
		return &twotowerv1.AttributeValue{Kind: &twotowerv1.AttributeValue_Flag{Flag: value}}
	case []string:
		texts := &twotowerv1.StringList{Values: value}
		return &twotowerv1.AttributeValue{Kind: &twotowerv1.AttributeValue_Texts{Texts: texts}}
	case float64:
		return number(value)
	case float32:
		return number(float64(value))
	case int:
		// A double does not hold every larger integer: an id would silently become another.
		if value > 1<<53 || value < -1<<53 {
			return nil
		}
		return number(float64(value))
	default:
		return nil
	}
}

func number(value float64) *twotowerv1.AttributeValue {
	return &twotowerv1.AttributeValue{Kind: &twotowerv1.AttributeValue_Number{Number: value}}
}

func attributesOf(messages map[string]*twotowerv1.AttributeValue) map[string]any {
	if len(messages) == 0 {
		return nil
	}
	attributes := make(map[string]any, len(messages))
	for name, message := range messages {
		switch kind := message.GetKind().(type) {
		case *twotowerv1.AttributeValue_Text:
			attributes[name] = kind.Text
		case *twotowerv1.AttributeValue_Number:
			attributes[name] = kind.Number
		case *twotowerv1.AttributeValue_Flag:
			attributes[name] = kind.Flag
		case *twotowerv1.AttributeValue_Texts:
			attributes[name] = kind.Texts.GetValues()
		}
	}
	return attributes
}
