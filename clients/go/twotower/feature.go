package twotower

// User is what the caller knows about a user: raw features, and what routes and caches the call. Values go out as they
// are known; scaling them belongs to the release.
//
// A feature may be named in full (user_age) or without its prefix (age). Names of items and crosses are ignored, so a
// map that serves both towers can be sent as it is. What is left out is missing, and the release says what that means.
type User struct {
	// ID is the key of the cache, and of the traffic split where RoutingKey is "". "" = anonymous, never cached.
	ID string
	// Features holds numbers: numeric features, weights of weighted bags, and whole numbers for categories.
	Features map[string]float64
	// StringFeatures holds texts: one for a category, several for tags and for sequences (oldest first).
	StringFeatures map[string][]string
	// FeatureVersion is an opaque part of the cache key; "" = none.
	FeatureVersion string
	// RoutingKey decides a traffic split; "" = ID.
	RoutingKey string
	// DenseFeatures holds all numeric features in the order of TowerSchema.dense_order, NaN where one is missing,
	// instead of numbers in Features. WithDenseFeatures fills them in from Features.
	DenseFeatures []float32
	// SchemaFingerprint is TowerSchema.fingerprint of that order; required with DenseFeatures.
	SchemaFingerprint uint64
}

// Item is what the caller knows about an item. Its features are read as those of User, with the prefix item_.
type Item struct {
	// ID is the item's; "" = one that the catalog does not know, where its vector is only computed.
	ID string
	// Features holds numbers, as in User.
	Features map[string]float64
	// StringFeatures holds texts, as in User.
	StringFeatures map[string][]string
	// DenseFeatures holds all numeric features, as in User.
	DenseFeatures []float32
	// SchemaFingerprint is that of the item schema; required with DenseFeatures.
	SchemaFingerprint uint64
}

// Embedding is a vector and the release that made it. Keep the two together: given to a call, the vector routes it to
// that release, and vectors of different releases cannot be compared.
type Embedding struct {
	// Values has norm 1 where the release's similarity is cosine. It belongs to the caller.
	Values []float32
	// Release made the vector.
	Release string
}
