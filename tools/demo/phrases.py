"""What the demo model is asked and what it answers: the vocabulary and the phrasings of every kind."""

COLORS = ["red", "orange", "yellow", "green", "blue", "purple", "pink", "black", "white"]
SHAPES = ["circle", "square", "triangle", "star", "diamond", "cross"]
PLACES = [["top left", "top", "top right"],
          ["left", "center", "right"],
          ["bottom left", "bottom", "bottom right"]]

SHAPE_OF = ["What shape is {c}?", "Which shape is {c}?", "What is the {c} shape?", "What is the {c} thing?",
            "What is the {c} object?", "Name the {c} shape.", "What shape has the color {c}?", "what shape is {c}"]
COLOR_OF = ["What color is the {s}?", "Which color is the {s}?", "What is the color of the {s}?",
            "What color does the {s} have?", "Tell me the color of the {s}.", "what color is the {s}",
            "What colour is the {s}?"]
COUNT_SHAPE = ["How many {s}s are there?", "How many {s}s do you see?", "Count the {s}s.",
               "How many {s}s are in the picture?", "What is the number of {s}s?", "how many {s}s are there",
               "How many {s}s can you see?", "How many {s}s are in the image?"]
COUNT_COLOR = ["How many {c} shapes are there?", "How many {c} objects are there?", "How many shapes are {c}?",
               "Count the {c} shapes.", "How many {c} things do you see?"]
COUNT_ALL = ["How many shapes are there?", "How many objects are there?", "How many shapes do you see?",
             "Count the shapes.", "Count the objects.", "How many things are in the picture?",
             "How many shapes are in the image?"]
PLACE_OF = ["Where is the {o}?", "Where is the {o} in the picture?", "In which part of the picture is the {o}?",
            "Where do you see the {o}?", "What is the position of the {o}?", "where is the {o}",
            "Where can I find the {o}?", "Where is the {o} located?"]
POINT_TO = ["Point to the {o}.", "Detect the {o}.", "Find the {o}.", "Locate the {o}.", "Draw a box around the {o}.",
            "Give the bounding box of the {o}.", "Mark the {o}.", "point to the {o}", "Detect {o}.",
            "Show me the {o}."]
READ_WORD = ["What does the sign say?", "Read the word.", "What word is written here?", "What is written here?",
             "Read the text.", "What does it say?", "What is the word?", "What text is in the image?",
             "What word is in the picture?", "what does the sign say", "Which word do you see?",
             "What does the text say?", "Read the sign."]
READ_NUMBER = ["What number is this?", "Read the number.", "Which number is shown?", "What is the number?",
               "What number is written here?", "what number is this", "What number do you see?",
               "What is written here?", "Read the text.", "What number is in the picture?",
               "Which number is written here?", "What number is shown?"]
READ_DIGIT = ["Which digit is this?", "What digit is this?", "Read the handwritten digit.",
              "What digit is written here?", "Which digit do you see?", "What is the digit?", "which digit is this",
              "What digit is in the picture?", "Which digit is shown?"]
DESCRIBE = ["What is in the picture?", "Describe the picture.", "Describe this image.", "What do you see?",
            "What is in this image?", "Describe the image.", "What is this?", "What is shown here?",
            "What can you see?"]

CHAT = [
    (["Hello", "Hello!", "Hi", "Hi!", "Hey", "hello", "hi", "Good morning", "Good morning!", "Good evening!"],
     "Hello! Give me a small picture and ask me about it."),
    (["What can you do?", "What can you do", "Help", "help", "What are you able to do?", "How can you help me?",
      "What do you do?", "What can I ask you?"],
     "I can name shapes and colors, count shapes, say where they are, point to them, and read words, numbers "
     "and handwritten digits."),
    (["Who are you?", "What are you?", "who are you", "What is your name?", "Tell me about yourself."],
     "I am the Osprey demo model, a very small vision and language model."),
    (["Thank you", "Thanks", "Thank you!", "Thanks!", "thanks", "Great, thank you."], "You are welcome!"),
    (["Bye", "Goodbye", "Bye!", "Goodbye!", "See you later."], "Goodbye!"),
    (["How are you?", "How are you doing?", "how are you"], "I am fine, thank you."),
    (["What is the weather today?", "Tell me a joke.", "Write a poem.", "What time is it?", "Who wrote this book?",
      "What is the capital of France?", "Write a story about a cat.", "Why is the sky blue?",
      "How do I cook rice?", "Translate this into German."],
     "I do not know. I can only answer questions about small pictures."),
]

COMMON_ENGLISH = """
the of and to in is you that it he was for on are as with his they at be this have from or one had by word but not
what all were we when your can said there use an each which she do how their if will up other about out many then
them these so some her would make like him into time has look two more write go see number no way could people my
than first water been call who oil its now find long down day did get come made may part over new sound take only
little work know place year live me back give most very after thing our just name good sentence man think say great
where help through much before line right too mean old any same tell boy follow came want show also around form
three small set put end does another well large must big even such because turn here why ask went men read need land
different home us move try kind hand picture again change off play spell air away animal house point page letter
mother answer found study still learn should world high every near add food between own below country plant last
school father keep tree never start city earth eye light thought head under story saw left few while along might
close something seem next hard open example begin life always those both paper together got group often run
please image photo drawing digit written color colour box around above below beside inside corner middle side
""".split()


def corpus():
    """Text that the byte-level BPE is trained on: every phrasing with every filling, answers, common English."""
    lines = []
    objects = [f"{c} {s}" for c in COLORS for s in SHAPES]
    for group in (SHAPE_OF, COUNT_COLOR):
        lines += [t.format(c=c) for t in group for c in COLORS]
    for group in (COLOR_OF, COUNT_SHAPE):
        lines += [t.format(s=s) for t in group for s in SHAPES]
    for group in (PLACE_OF, POINT_TO):
        lines += [t.format(o=o) for t in group for o in objects]
    for group in (COUNT_ALL, READ_WORD, READ_NUMBER, READ_DIGIT, DESCRIBE):
        lines += group * 9
    for questions, answer in CHAT:
        lines += questions * 9 + [answer] * 9 * len(questions)
    lines += COLORS * 99 + SHAPES * 99 + [p for row in PLACES for p in row] * 99
    lines += [f" {w}" for w in COLORS + SHAPES] * 20
    lines += ["A red circle and a blue square.", "A red circle, a blue square and a green star.", 'The word is',
              "The number is", "A handwritten digit", "),(" , "(", ",", ")"] * 200
    lines += ["system\nYou are a helpful assistant.", "user\n", "assistant\n"] * 400
    lines += [f"{lead}{w}" for w in COMMON_ENGLISH for lead in ("", " ", " ")]
    return lines
