package twotower

import twotowerv1 "github.com/twotower/twotower/clients/go/gen/twotower/v1"

// FilterPart is a Condition, or the alternatives of AnyOf.
type FilterPart interface {
	anyOf() *twotowerv1.AnyOf
}

// AllOf is a filter of which every part has to hold:
//
//	twotower.AllOf(
//		twotower.Where("price").LessThan(20),
//		twotower.AnyOf(twotower.Where("category").In("books", "film"), twotower.Where("on_sale").Is(true)),
//		twotower.Where("language").In("fr").Not(),
//	)
//
// An item without the attribute of a condition never matches, negated or not.
func AllOf(parts ...FilterPart) *twotowerv1.Filter {
	filter := &twotowerv1.Filter{}
	for _, part := range parts {
		filter.AllOf = append(filter.AllOf, part.anyOf())
	}
	return filter
}

// AnyOf holds when at least one of the conditions does.
func AnyOf(conditions ...Condition) FilterPart {
	any := &twotowerv1.AnyOf{}
	for _, condition := range conditions {
		any.Conditions = append(any.Conditions, condition.message)
	}
	return alternatives{any}
}

type alternatives struct{ message *twotowerv1.AnyOf }

func (a alternatives) anyOf() *twotowerv1.AnyOf { return a.message }

// Attribute is an attribute of items; its methods make conditions.
type Attribute struct{ name string }

// Where names an attribute, to make a condition of.
func Where(attribute string) Attribute { return Attribute{attribute} }

// Condition tests one attribute.
type Condition struct{ message *twotowerv1.Condition }

func (c Condition) anyOf() *twotowerv1.AnyOf {
	return &twotowerv1.AnyOf{Conditions: []*twotowerv1.Condition{c.message}}
}

// Not turns the condition round, for items that have the attribute.
func (c Condition) Not() Condition {
	return Condition{&twotowerv1.Condition{
		Attribute: c.message.GetAttribute(),
		AnyText:   c.message.GetAnyText(),
		AnyNumber: c.message.GetAnyNumber(),
		Range:     c.message.GetRange(),
		Flag:      c.message.Flag,
		Negate:    !c.message.GetNegate(),
	}}
}

// In holds when the attribute is one of these texts, or a list that has one of them.
func (a Attribute) In(texts ...string) Condition {
	return Condition{&twotowerv1.Condition{Attribute: a.name, AnyText: texts}}
}

// InNumbers holds when the attribute is one of these numbers.
func (a Attribute) InNumbers(numbers ...float64) Condition {
	return Condition{&twotowerv1.Condition{Attribute: a.name, AnyNumber: numbers}}
}

// Is holds when the attribute is this flag.
func (a Attribute) Is(flag bool) Condition {
	return Condition{&twotowerv1.Condition{Attribute: a.name, Flag: &flag}}
}

// LessThan holds when attribute < value.
func (a Attribute) LessThan(value float64) Condition {
	return a.inRange(&twotowerv1.Range{Max: &value, MaxExclusive: true})
}

// AtMost holds when attribute ≤ value.
func (a Attribute) AtMost(value float64) Condition { return a.inRange(&twotowerv1.Range{Max: &value}) }

// MoreThan holds when attribute > value.
func (a Attribute) MoreThan(value float64) Condition {
	return a.inRange(&twotowerv1.Range{Min: &value, MinExclusive: true})
}

// AtLeast holds when attribute ≥ value.
func (a Attribute) AtLeast(value float64) Condition { return a.inRange(&twotowerv1.Range{Min: &value}) }

// Between holds when least ≤ attribute ≤ most.
func (a Attribute) Between(least, most float64) Condition {
	return a.inRange(&twotowerv1.Range{Min: &least, Max: &most})
}

func (a Attribute) inRange(bounds *twotowerv1.Range) Condition {
	return Condition{&twotowerv1.Condition{Attribute: a.name, Range: bounds}}
}
