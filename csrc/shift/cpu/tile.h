// Moves the pairs of a tile between a tensor of any dtype and strides and one vector per row.
// Included like simd.h, after element.h.

template <typename Acc>
struct Tile {
  int64_t first;  // first pair
  int lanes;      // pairs that exist; the lanes after them hold zeros
  Acc* run;       // scratch: kLanes<Acc> * rows elements
};

template <typename Acc>
constexpr bool is_own_dtype(Dtype dtype) {
  return dtype == (sizeof(Acc) == 8 ? Dtype::float64 : Dtype::float32);
}

// Start of row 0 of each lane's pair, for strided tensors.
template <typename Acc, typename Body>
inline void for_each_lane(const Rows& tensor, int64_t in_channels, const Tile<Acc>& tile, int64_t sample, Body body) {
  int64_t o = tile.first / in_channels, c = tile.first % in_channels;
  for (int lane = 0; lane < tile.lanes; ++lane) {
    body(lane, sample * tensor.sample + o * tensor.out_channel + c * tensor.in_channel);
    if (++c == in_channels) c = 0, ++o;
  }
}

// Asks for the next tile of this stream while this one is worked on: with a stream for each sample, the streams are too
// many and too short for the prefetcher of the processor.
template <int kForWriting>
inline void prefetch(const void* memory, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(memory) + i, kForWriting, 3);
}

template <typename Acc>
inline void load_tile(const Rows& tensor, int64_t in_channels, const Tile<Acc>& tile, int64_t sample,
                      Vector<Acc>* rows) {
  const int count = tensor.count;
  if (!tensor.dense) {
    if (tile.lanes < kLanes<Acc>) __builtin_memset(rows, 0, sizeof(Vector<Acc>) * count);
    CROSSD_FOR_DTYPE(tensor.dtype, T, {
      const T* data = static_cast<const T*>(tensor.data);
      for_each_lane(tensor, in_channels, tile, sample, [&](int lane, int64_t start) {
        Acc* target = reinterpret_cast<Acc*>(rows) + lane;
        for (int i = 0; i < count; ++i)
          target[static_cast<int64_t>(i) * kLanes<Acc>] = read<Acc>(data[start + tensor.offset[i]]);
      });
    })
    return;
  }
  const int64_t start = sample * tensor.sample + tile.first * count,
                elements = static_cast<int64_t>(tile.lanes) * count;
  if (is_own_dtype<Acc>(tensor.dtype) && tile.lanes == kLanes<Acc>) {
    const Acc* source = static_cast<const Acc*>(tensor.data) + start;
    prefetch<0>(source + elements, elements * sizeof(Acc));
    transpose_in(source, count, tensor.row_at, rows);
    return;
  }
  CROSSD_FOR_DTYPE(tensor.dtype, T, {
    const T* data = static_cast<const T*>(tensor.data) + start;
    prefetch<0>(data + elements, elements * sizeof(T));
    read_run(data, elements, tile.run);
  })
  for (int64_t i = elements; i < static_cast<int64_t>(kLanes<Acc>) * count; ++i) tile.run[i] = 0;
  transpose_in(static_cast<const Acc*>(tile.run), count, tensor.row_at, rows);
}

template <typename Acc>
inline void store_tile(const Rows& tensor, int64_t in_channels, const Tile<Acc>& tile, int64_t sample,
                       const Vector<Acc>* rows) {
  const int count = tensor.count;
  if (!tensor.dense) {
    CROSSD_FOR_DTYPE(tensor.dtype, T, {
      T* data = static_cast<T*>(tensor.data);
      for_each_lane(tensor, in_channels, tile, sample, [&](int lane, int64_t start) {
        const Acc* source = reinterpret_cast<const Acc*>(rows) + lane;
        for (int i = 0; i < count; ++i)
          data[start + tensor.offset[i]] = Write<T, Acc>::from(source[static_cast<int64_t>(i) * kLanes<Acc>]);
      });
    })
    return;
  }
  const int64_t start = sample * tensor.sample + tile.first * count,
                elements = static_cast<int64_t>(tile.lanes) * count;
  if (is_own_dtype<Acc>(tensor.dtype) && tile.lanes == kLanes<Acc>) {
    Acc* target = static_cast<Acc*>(tensor.data) + start;
    prefetch<1>(target + elements, elements * sizeof(Acc));
    transpose_out(rows, count, tensor.row_at, target);
    return;
  }
  transpose_out(rows, count, tensor.row_at, tile.run);
  CROSSD_FOR_DTYPE(tensor.dtype, T, {
    T* data = static_cast<T*>(tensor.data) + start;
    prefetch<1>(data + elements, elements * sizeof(T));
    write_run(static_cast<const Acc*>(tile.run), elements, data);
  })
}
