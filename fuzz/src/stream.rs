//! Feeds a decoder as a shell does, and checks what every decoder promises a shell.

/// What was decoded of a stream up to its end or the first error, and that error.
pub(crate) type Heard<T, E> = (Vec<T>, Option<E>);

/// Decodes a stream that comes in these reads. What is not consumed is shown again, with more.
///
/// # Panics
/// The decoder consumed nothing or more than there was, or changed bytes that it did not consume.
pub(crate) fn hear<T, E>(
    reads: &[&[u8]],
    mut decode: impl FnMut(&mut [u8]) -> Result<Option<(usize, T)>, E>,
) -> Heard<T, E> {
    let (mut heard, mut kept) = (Vec::new(), Vec::new());
    for read in reads {
        kept.extend_from_slice(read);
        loop {
            let before = kept.clone();
            match decode(&mut kept) {
                Ok(Some((len, item))) => {
                    assert!(
                        (1..=before.len()).contains(&len),
                        "consumed {len} of {}",
                        before.len()
                    );
                    assert_eq!(kept[len..], before[len..], "what is not consumed is left as it is");
                    kept.drain(..len);
                    heard.push(item);
                }
                Ok(None) => {
                    assert_eq!(kept, before, "what is not consumed is left as it is");
                    break;
                }
                Err(error) => return (heard, Some(error)),
            }
        }
    }
    (heard, None)
}

/// Takes the place of a split from the first two bytes of the input: the stream, and its two parts.
pub(crate) fn split(data: &[u8]) -> Option<(&[u8], [&[u8]; 2])> {
    let (at, stream) = data.split_first_chunk::<2>()?;
    let (before, after) =
        stream.split_at(usize::from(u16::from_be_bytes(*at)) % (stream.len() + 1));
    Some((stream, [before, after]))
}
