"""Take a reasoning model's thinking out of its completion: an answer inside `<think>...</think>` was never given.

The tags are DeepSeek-R1's (arXiv 2501.12948), literal and lower case. Templates that open the thinking in the prompt
leave a completion that starts inside it. Left out: nesting; the first closing tag ends the thinking, as in every
parser that models were trained against.
"""

THOUGHT = "\0"  # stands where a stretch of thinking was, so that nothing can be read across it


def without_thinking(completion: str) -> str:
    """The completion with THOUGHT for each stretch of thinking; an unclosed `<think>` swallows the rest."""
    if "think>" not in completion:
        return completion
    opening, closing = completion.find("<think>"), completion.find("</think>")
    position = 0
    if closing >= 0 and (opening < 0 or closing < opening):
        position = closing + len("</think>")  # the prompt opened the thinking
    spoken = []
    while (opening := completion.find("<think>", position)) >= 0:
        spoken.append(completion[position:opening])
        closing = completion.find("</think>", opening)
        if closing < 0:
            return THOUGHT.join(spoken)
        position = closing + len("</think>")
    spoken.append(completion[position:])
    return THOUGHT.join(spoken)
