"""``python -m course_utils.published`` prints the page of other people's numbers."""

from course_utils.published.page import page

if __name__ == "__main__":
    print(page(), end="")
